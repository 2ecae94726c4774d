import os
import re

import pytest
import torch
from train.toy import MemoryLoader, toy_config, toy_net, val_loader

from attnconv.checks import InputError
from attnconv.train.checkpoint import load_checkpoint
from attnconv.train.divergence import largest_value, require_finite
from attnconv.train.fit import fit


def run(out, **faults):
    loaders = MemoryLoader(count=120, faults=faults.get("train")), val_loader(faults=faults.get("val"))
    config = toy_config(epochs=2, schedule="constant", lr=0.125)
    return fit(faults.get("model") or toy_net(), *loaders, config=config, out=out, meta={}, progress=False)


def spoil(images):
    return images * float("nan")


def finite(path):
    return all(t.isfinite().all() for t in load_checkpoint(path)["model"].values())


@pytest.mark.parametrize("batch", [0, 3, 9, 10, 14])
def test_the_first_bad_step_is_named(tmp_path, batch):
    # An epoch has 15 steps: looks come after 10 of them and at its end.
    message = rf"^the loss is nan at step {batch + 1} \(lr 0.125\): give a smaller lr; last good checkpoint: none yet$"
    with pytest.raises(InputError, match=message):
        run(tmp_path, train={(0, batch): spoil})
    assert not (tmp_path / "last.pt").exists()


def test_the_last_good_checkpoint_is_named_and_kept(tmp_path):
    last = re.escape(str(tmp_path / "last.pt"))
    with pytest.raises(InputError, match=rf"^the loss is nan at step 20 .* last good checkpoint: {last}$"):
        run(tmp_path, train={(1, 4): spoil})
    assert load_checkpoint(tmp_path / "last.pt")["epoch"] == 1
    assert finite(tmp_path / "last.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_all_values_that_are_not_finite(tmp_path, value):
    with pytest.raises(InputError, match=rf"^it is {value} at step 3 \(lr 0.1\)"):
        require_finite("it", value, step=3, lr=0.1, checkpoint=tmp_path / "last.pt")


def test_a_bad_validation_loss_stops_the_run(tmp_path):
    with pytest.raises(InputError, match=r"^the validation loss is nan at step 15 \(lr 0.125\)"):
        run(tmp_path, val={(0, 1): spoil})
    assert not (tmp_path / "last.pt").exists()


def test_an_interrupt_does_not_save_a_bad_loss(tmp_path):
    faults = {(1, 1): spoil, (1, 3): KeyboardInterrupt()}
    with pytest.raises(InputError, match="the loss is nan at step 17 "):
        run(tmp_path, train=faults)
    assert load_checkpoint(tmp_path / "last.pt")["epoch"] == 1


def test_weights_spoiled_by_the_last_update_are_not_saved(tmp_path):
    model = toy_net()
    model.head.weight.register_hook(lambda gradient: gradient * float("inf"))  # the loss is finite, the update is not
    with pytest.raises(InputError, match=r"^the largest weight is (nan|inf) at step 1 "):
        run(tmp_path, model=model, train={(0, 1): KeyboardInterrupt()})
    assert sorted(os.listdir(tmp_path)) == ["config.yaml", "metrics.csv"]


def test_statistics_that_overflow_are_not_saved(tmp_path):
    # A variance above the largest float makes batch norm give 0: every loss is finite, and the network is lost.
    with pytest.raises(InputError, match=r"^the largest weight is inf at step 3 "):
        run(tmp_path, train={(0, 2): lambda images: images * 1e25, (0, 3): KeyboardInterrupt()})
    assert not (tmp_path / "last.pt").exists()


def test_a_mask_of_minus_infinity_is_no_fault():
    model = toy_net()
    model.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    assert 0 < largest_value(model) < 10


def test_the_faults_are_what_stops_it(tmp_path):
    assert run(tmp_path)["loss"] < 1.2
    assert finite(tmp_path / "last.pt")
