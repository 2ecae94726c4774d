"""Contests of layers: equal outputs, FLOPs, timm's layer, and sweeps."""

import sys

import pytest
import torch
from bench.contestants import settings

from attnconv import ops
from attnconv.bench import layers
from attnconv.bench.contest import BOTH, FORWARD
from attnconv.bench.timing import hold

SMALL = layers.Case("T1", 2, 16, (4, 6))


@pytest.mark.parametrize("name", [name for name in layers.contestant_names() if not name.endswith("-triton")])
def test_every_layer_gives_an_output_of_the_convolution_s_size(name):
    if name == "timm-bottleneck":
        pytest.importorskip("timm")
    x = layers.draw(SMALL, settings())
    y = layers.call_of(name, SMALL, x, backward=False)()
    assert y.shape == x.shape
    assert not y.requires_grad
    first, *rest = layers.call_of(name, SMALL, x, backward=True)()
    assert first.shape == x.shape
    assert rest


def test_contestants():
    names = layers.contestant_names()
    assert names[0] == layers.contests([SMALL], settings())[0].baseline == "conv2d"
    assert {f"augmented-{impl}" for impl in ops.IMPLS} <= set(names)
    assert {"timm-bottleneck", "attention-alone", "sagan", "simple", "augmented-without-positions"} <= set(names)


def test_timm_s_layer_and_ours_have_the_same_widths():
    pytest.importorskip("timm")
    theirs, ours = layers.BUILDERS["timm-bottleneck"](SMALL), layers.BUILDERS["attention-alone"](SMALL)
    assert (theirs.dim_out_qk, theirs.dim_out_v, theirs.num_heads) == (
        ours.key_channels, ours.value_channels, ours.num_heads,
    )  # fmt: skip


def test_without_timm_its_layer_is_recorded_as_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.layers.bottleneck_attn", None)
    (contest,) = layers.contests([SMALL], settings(backward=False))
    (outcome,) = hold([c for c in contest.enter() if c.name == "timm-bottleneck"], settings())
    assert "timm's layer cannot be imported" in outcome.why_not
    assert "attnconv[timm]" in outcome.why_not


def test_flops_by_hand():
    macs = 2 * 24 * 16 * 16 * 9
    assert layers.flops("conv2d", SMALL, backward=False) == 2 * macs
    assert layers.flops("conv2d", SMALL, backward=True) == 6 * macs
    plain, ours = (layers.flops(f"augmented-{impl}", SMALL, backward=True) for impl in ("eager", "blocked"))
    assert plain == ours > 0  # recomputation is not counted


def test_contests_run():
    pytest.importorskip("timm")
    forward, both = layers.contests([SMALL], settings(rounds=1))
    assert (forward.what, both.what) == (FORWARD, BOTH)
    for contest in (forward, both):
        outcomes = hold(contest.enter(), settings(rounds=1))
        assert [o.name for o in outcomes if o.why_not] == [
            n for n in layers.contestant_names() if n.endswith("-triton")
        ]


def test_a_sweep():
    cases = layers.sweep((8, 128))
    assert [(c.batch, c.map_size) for c in cases] == [(64, (8, 8)), (1, (128, 128))]
    forward, _ = layers.contests([cases[1]], settings())
    assert forward.size == 128
    conv, *_ = forward.enter()
    assert conv.probe.text == "on a 32 x 32 map"
    with pytest.raises(ValueError, match="a size of the sweep must be at least 1, got 0"):
        layers.sweep([0])


def test_half_precision_layers():
    x = layers.draw(SMALL, settings(dtype=torch.bfloat16))
    assert layers.call_of("augmented-auto", SMALL, x, backward=False)().dtype == torch.bfloat16
