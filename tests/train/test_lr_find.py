"""The learning-rate range test: what it leaves as it was, and what it suggests."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from train.toy import MemoryLoader, toy_config, toy_net

from attnconv.checks import InputError
from attnconv.train import lr_find as module
from attnconv.train.device import make_engine, make_fabric
from attnconv.train.lr_find import find_lr, smoothed, suggestions


def engine_of(model=None, fabric=None, **options):
    """The engine and the configuration of a run."""
    config = toy_config(weight_decay=0, **options)
    return make_engine(model or toy_net(), config, fabric or make_fabric("cpu", config.precision)), config


def search(model=None, loader=None, engine=None, **options):
    engine = engine or engine_of(model)
    return find_lr(*engine, loader or MemoryLoader(), **{"progress": False, **options})


def test_random_numbers_end_as_they_began():
    engine = engine_of()
    before = torch.get_rng_state()
    search(engine=engine)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_learning_rate_grows_evenly_in_its_logarithm_over_more_steps_than_an_epoch_has():
    found = search(low=1e-4, high=1e-2, steps=11)
    assert len(MemoryLoader()) < 11
    torch.testing.assert_close(torch.tensor(found.lrs).log10(), torch.linspace(-4, -2, 11))
    assert len(found.losses) == 11
    assert not found.diverged


class Bowl(nn.Module):
    """Two logits (w, -w) for every image, of class 0: plain gradient steps of any size are easy to follow."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return torch.stack([self.w, -self.w]).expand(len(x), 2)


class OneClass(MemoryLoader):
    def epoch(self, epoch, start=0):
        for images, labels in super().epoch(epoch, start):
            yield images, torch.zeros_like(labels)


def test_the_weights_take_the_steps_that_the_learning_rates_say():
    found = search(Bowl(), OneClass(), low=0.1, high=1.0, steps=10)
    w, expected = 0.0, []
    for lr in found.lrs:
        expected.append(math.log(1 + math.exp(-2 * w)))
        w += lr * 2 / (1 + math.exp(2 * w))
    assert found.losses[0] == pytest.approx(math.log(2))
    assert found.losses[1] == pytest.approx(expected[1])  # later ones have momentum


@pytest.mark.parametrize(
    "options",
    [{"precision": "bf16"}, {"accumulate": 4}, {"clip": 0.01}, {"label_smoothing": 0.2}, {"optimizer": "adam"}],
)
def test_the_steps_are_those_of_the_run(options):
    plain = search(toy_net(dropout=0.0), low=1e-3, high=1.0, steps=12)
    found = search(engine=engine_of(toy_net(dropout=0.0), **options), low=1e-3, high=1.0, steps=12)
    assert found.losses != plain.losses
    assert found.losses[0] == pytest.approx(plain.losses[0], rel=0.1)


def test_channels_last_and_compile_reach_the_engine(monkeypatch):
    compiled, compile = [], torch.compile
    eager = partial(compile, backend="eager")
    monkeypatch.setattr(torch, "compile", lambda model=None, **_: compiled.append(model) or eager(model))
    model = toy_net()
    search(engine=engine_of(model, compile=True, channels_last=True), steps=10)
    assert model in compiled
    assert model.conv.weight.is_contiguous(memory_format=torch.channels_last)


def test_it_stops_where_the_loss_diverges():
    found = search(low=1e-3, high=1e6, steps=60)
    assert found.diverged
    assert len(found.losses) < 60
    assert all(map(math.isfinite, found.losses))


def test_a_loss_that_is_never_finite_is_refused():
    model = toy_net()
    nn.init.constant_(model.head.bias, math.nan)
    with pytest.raises(InputError, match="not finite at the least learning rate, 1e-06: give a smaller low"):
        search(model)


def test_a_set_without_images_is_refused():
    loader = MemoryLoader(count=8)
    loader.epoch = lambda *_: iter([(loader.images[:0], loader.labels[:0])])
    with pytest.raises(InputError, match="epoch 1 brought none of 8 training images"):
        search(loader=loader)


@pytest.mark.parametrize(("low", "high"), [(1.0, 0.1), (0.0, 1.0), (-1.0, 1.0), (1.0, math.inf), (math.nan, 1.0)])
def test_bad_ends(low, high):
    with pytest.raises(InputError, match=r"low and high must be positive|must be finite"):
        search(low=low, high=high)


def test_too_few_steps():
    with pytest.raises(InputError, match="steps must be at least 10, got 9"):
        search(steps=9)


def test_smoothing_starts_at_the_first_loss():
    assert smoothed([2.0, 1.0]) == pytest.approx([2.0, (0.98 * 2 + 1) / 1.98])


def suggested(losses):
    return suggestions(np.array([10.0**i for i in range(len(losses))]), np.array(losses))


def test_steepest_valley_and_minimum_of_a_planted_curve():
    found = suggested([5.0, 4.9, 4.8, 3.0, 2.5, 2.4, 2.3, 4.0, 9.0])
    assert found == {
        "steepest": 1e2,  # from 4.8 to 3.0
        "valley": 1e2,  # of the seven that fall
        "minimum": 1e5,
    }


def test_slide_is_where_the_slope_is_still_even():
    """Fastai's numbers: the window of 16 steps whose ends have slopes more than 0.005 apart, the farthest left."""
    losses = [0.01 * max(0, i - 30) ** 2 for i in range(50)]
    assert suggested(losses)["slide"] == pytest.approx(1e16)
    assert suggested([1.0] * 30)["slide"] == 1e14  # even everywhere: that of the last window


def test_a_loss_that_never_falls_suggests_neither_steepest_nor_valley():
    assert suggested([1.0, 2.0, 3.0]) == {"minimum": 0.1}


def test_too_short_a_curve_suggests_nothing():
    found = search(steps=10, low=1e3, high=1e6)
    assert len(found.losses) < 6
    assert (found.steepest, found.valley, found.minimum, found.slide) == (None,) * 4


def test_the_first_tenth_and_the_last_five_steps_suggest_nothing(monkeypatch):
    seen = []
    monkeypatch.setattr(module, "suggestions", lambda lrs, losses: seen.append((lrs, losses)) or {})
    found = search(steps=40, low=1e-4, high=1e-2)
    assert list(seen[0][0]) == list(found.lrs[4:-5])
    assert list(seen[0][1]) == list(found.smoothed[4:-5])
