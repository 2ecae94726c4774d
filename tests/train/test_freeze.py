"""freeze_epochs: what came with init_from is not trained in the first epochs, and exactly resumed in between."""

import copy

import pytest
import torch
from train.toy import MemoryLoader, toy_config, toy_net, val_loader

from attnconv import checks
from attnconv.recipes import RunConfig
from attnconv.train import step
from attnconv.train.checkpoint import load_checkpoint
from attnconv.train.fit import fit
from attnconv.train.lr_find import find_lr

TAKEN = ("conv.weight", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var")
FREE = ("head.weight", "head.bias", "key_rel_w")


def trained(out, *, epochs, resume=False, faults=None, **options):
    """The checkpoint after ``epochs`` of three, of which two leave TAKEN alone."""
    settings = {"init_from": "timm", "freeze_epochs": 2, "clip": 1.0, "weight_decay": 0.1, **options}
    config = toy_config(epochs=epochs, **settings)
    loaders = MemoryLoader(faults=faults), val_loader()
    fit(
        toy_net(),
        *loaders,
        config=config,
        out=out,
        meta={},
        taken_over=() if resume else TAKEN,
        resume=resume,
        progress=False,
    )
    return load_checkpoint(out / "last.pt")


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "ranger"])
def test_only_the_rest_is_trained_in_these_epochs(tmp_path, optimizer):
    first = toy_net().state_dict()
    after = trained(tmp_path / "two", epochs=2, optimizer=optimizer)["model"]
    for name in TAKEN:
        assert torch.equal(after[name], first[name]), name
    for name in FREE:
        assert not torch.equal(after[name], first[name]), name
    later = trained(tmp_path / "three", epochs=3, optimizer=optimizer)["model"]
    for name in (*TAKEN, *FREE):
        assert not torch.equal(later[name], first[name]), name


def test_the_norm_that_is_clipped_is_that_of_the_rest(tmp_path, monkeypatch):
    clip, seen = step.clip_gradients, []

    def watched(engine, config):
        seen.append({name for name, p in engine.bare.named_parameters() if p.grad is not None})
        clip(engine, config)

    monkeypatch.setattr(step, "clip_gradients", watched)
    trained(tmp_path, epochs=2)
    assert set.union(*seen) == set(FREE)


def test_a_parameter_stays_trainable(tmp_path):
    model = toy_net()
    config = toy_config(epochs=1, init_from="timm", freeze_epochs=1)
    fit(model, MemoryLoader(), val_loader(), config=config, out=tmp_path, meta={}, taken_over=TAKEN, progress=False)
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("at", [(1, 1), (2, 1)])
def test_it_is_resumed_exactly_without_init_from(tmp_path, at):
    whole = trained(tmp_path / "whole", epochs=3)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "cut", epochs=3, faults={at: KeyboardInterrupt()})
    resumed = trained(tmp_path / "cut", epochs=3, resume=True)  # where no weights are taken over any more
    for name, tensor in whole["model"].items():
        assert torch.equal(tensor, resumed["model"][name]), name
    assert resumed["taken_over"] == sorted(TAKEN)


def test_the_learning_rate_test_trains_what_the_first_epoch_would(tmp_path):
    from attnconv.train.device import make_engine, make_fabric

    seen = {}
    config = toy_config(init_from="timm", freeze_epochs=1)
    engine = make_engine(toy_net(), config, make_fabric("cpu"))
    first = copy.deepcopy(engine.bare.state_dict())
    step = engine.optimizer.step

    def watched(*args, **kwargs):
        result = step(*args, **kwargs)
        seen.update(copy.deepcopy(engine.bare.state_dict()))
        return result

    engine.optimizer.step = watched
    find_lr(engine, config, MemoryLoader(), taken_over=TAKEN, steps=10, progress=False)
    assert all(torch.equal(seen[name], first[name]) for name in TAKEN)
    assert not torch.equal(seen["head.weight"], first["head.weight"])


def test_it_needs_weights_to_freeze():
    with pytest.raises(checks.InputError, match="freeze_epochs 2 needs init_from"):
        RunConfig(freeze_epochs=2)
