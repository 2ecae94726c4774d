import math
import os
import re

import pytest
import torch
from train.toy import MemoryLoader, toy_config, toy_net, val_loader

from attnconv.checks import InputError
from attnconv.train.checkpoint import load_checkpoint
from attnconv.train.evaluate import largest_value, require_finite
from attnconv.train.fit import fit


def run(out, on_nan="stop", **faults):
    loaders = MemoryLoader(count=120, faults=faults.get("train")), val_loader(faults=faults.get("val"))
    config = toy_config(epochs=2, schedule="constant", lr=0.125, on_nan=on_nan)
    return fit(
        faults.get("model") or toy_net(),
        *loaders,
        config=config,
        out=out,
        meta={},
        progress=faults.get("progress", False),
        resume=faults.get("resume", False),
    )


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


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_one_weight_that_is_not_finite_is_a_fault(value):
    model = toy_net()
    model.head.bias.data[1] = value
    assert not math.isfinite(largest_value(model))


def test_a_mask_of_minus_infinity_is_no_fault():
    model = toy_net()
    model.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    assert 0 < largest_value(model) < 10


def test_the_faults_are_what_stops_it(tmp_path):
    assert run(tmp_path)["loss"] < 1.2
    assert finite(tmp_path / "last.pt")


def test_skip_leaves_the_step_out(tmp_path):
    result = run(tmp_path, "skip", train={(0, 3): spoil, (1, 7): lambda images: images * float("inf")})
    assert result["left_out_steps"] == 2
    assert load_checkpoint(tmp_path / "last.pt")["left_out"] == [3, 22]
    assert finite(tmp_path / "last.pt")  # the statistics of batch norm, too


def test_skip_is_as_if_the_batch_had_been_empty(tmp_path):
    run(tmp_path / "skip", "skip", train={(0, 3): spoil})
    run(tmp_path / "empty", "skip", train={(0, 3): lambda images: images[:0]})
    one, other = (load_checkpoint(tmp_path / name / "last.pt")["model"] for name in ("skip", "empty"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_skip_sees_gradients_that_are_not_finite(tmp_path):
    model = toy_net()
    calls = []
    model.head.weight.register_hook(lambda g: (calls.append(1), g * float("nan") if len(calls) == 5 else g)[1])
    run(tmp_path, "skip", model=model)
    assert load_checkpoint(tmp_path / "last.pt")["left_out"] == [4]
    assert finite(tmp_path / "last.pt")


def test_skip_gives_up_in_the_end(tmp_path):
    message = r"^the loss or a gradient was not finite in 10 steps in a row, up to step 13 \(lr 0.125\): give a smaller"
    with pytest.raises(InputError, match=message):
        run(tmp_path, "skip", train={(0, batch): spoil for batch in range(3, 15)})


def test_rollback_goes_on_from_the_last_checkpoint(tmp_path, capsys):
    result = run(tmp_path, "rollback", train={(1, 4): spoil}, progress=True)
    note = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("note: "))
    assert re.match(r"note: the loss is nan at step 20 .*; back to epoch 2, batch 1, at 0.5 times the learning", note)
    state = load_checkpoint(tmp_path / "last.pt")
    assert (state["lr_factor"], state["left_out"], result["left_out_steps"]) == (0.5, [19], 1)
    assert [row["lr"] for row in state["history"]] == [0.125, 0.0625]
    assert finite(tmp_path / "last.pt")


def test_rollback_before_the_first_epoch_is_done(tmp_path):
    run(tmp_path, "rollback", train={(0, 4): spoil, (0, 6): spoil})
    state = load_checkpoint(tmp_path / "last.pt")
    assert (state["lr_factor"], state["left_out"]) == (0.25, [4, 6])


def test_rollback_gives_up_in_the_end(tmp_path):
    with pytest.raises(InputError, match="the loss is nan at step 6 "):
        run(tmp_path, "rollback", train={(0, batch): spoil for batch in range(12)})
    assert load_checkpoint(tmp_path / "last.pt")["lr_factor"] == 2**-5


def test_a_resumed_run_knows_what_was_left_out(tmp_path):
    faults = {(0, 3): spoil, (1, 4): spoil}
    run(tmp_path / "whole", "rollback", train=faults)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", "rollback", train={**faults, (1, 9): KeyboardInterrupt()})
    run(tmp_path / "run", "rollback", train=faults, model=toy_net(seed=7), resume=True)
    one, other = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "run"))
    assert one["left_out"] == other["left_out"] == [3, 19]
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])
