"""Benchmarks of layers: equal outputs, FLOPs, timm's layer, and sweeps."""

import sys

import pytest
import torch
from bench.candidates import settings

from attnconv import ops
from attnconv.bench import layers
from attnconv.bench.benchmark import measure
from attnconv.bench.cases import BOTH, FORWARD, LAYER_NAMES, LayerCase, layer_sweep

SMALL = LayerCase("T1", 2, 16, (4, 6))


@pytest.mark.parametrize("name", [name for name in layers.builders() if not name.endswith("-triton")])
def test_every_layer_gives_an_output_of_the_convolution_s_size(name):
    if name == "timm-bottleneck":
        pytest.importorskip("timm")
    x = layers.images_of(SMALL, settings())
    y = layers.layer_call(layers.builders()[name](SMALL), x, False)()
    assert y.shape == x.shape
    assert not y.requires_grad
    first, *rest = layers.layer_call(layers.builders()[name](SMALL), x, True)()
    assert first.shape == x.shape
    assert rest


def test_candidates():
    assert tuple(layers.BUILDERS) == LAYER_NAMES
    found = layers.layer_benchmark(SMALL, FORWARD, settings())
    assert found.names[0] == found.baseline == "conv2d"
    assert {f"augmented-{impl}" for impl in ops.IMPLS} <= set(found.names)
    assert {"timm-bottleneck", "attention-alone", "sagan", "simple", "augmented-without-positions"} <= set(found.names)


def test_timm_s_layer_and_ours_have_the_same_widths():
    pytest.importorskip("timm")
    theirs, ours = layers.builders()["timm-bottleneck"](SMALL), layers.builders()["attention-alone"](SMALL)
    assert (theirs.dim_out_qk, theirs.dim_out_v, theirs.num_heads) == (
        ours.key_channels, ours.value_channels, ours.num_heads,
    )  # fmt: skip


def test_without_timm_its_layer_is_recorded_as_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm.layers.bottleneck_attn", None)
    given = settings(names=("timm-bottleneck",))
    outcome = measure(layers.layer_benchmark(SMALL, FORWARD, given), given)["timm-bottleneck"]
    assert "timm's layer cannot be imported" in outcome.why_not
    assert "attnconv[timm]" in outcome.why_not
    assert layers.flops("timm-bottleneck", SMALL, False) is None


def test_flops_by_hand():
    macs = 2 * 24 * 16 * 16 * 9
    assert layers.flops("conv2d", SMALL, backward=False) == 2 * macs
    assert layers.flops("conv2d", SMALL, backward=True) == 6 * macs
    plain, ours = (layers.flops(f"augmented-{impl}", SMALL, backward=True) for impl in ("eager", "blocked"))
    assert plain == ours > 0  # recomputation is not counted


@pytest.mark.parametrize("what", [pytest.param(FORWARD, marks=pytest.mark.slow), BOTH])
def test_all_candidates_run_but_triton(what):
    pytest.importorskip("timm")
    outcomes = measure(layers.layer_benchmark(SMALL, what, settings()), settings(rounds=1))
    assert [name for name, o in outcomes.items() if o.why_not] == ["augmented-triton"]


def test_a_sweep():
    cases = layer_sweep((8, 128))
    assert [(c.batch, c.map_size) for c in cases] == [(64, (8, 8)), (1, (128, 128))]
    found = layers.layer_benchmark(cases[1], FORWARD, settings())
    assert found.size == 128
    assert found.held("augmented-eager") == 20 * 8 * 128**4
    assert found.held("augmented-auto") == found.held("conv2d") == 0
    with pytest.raises(ValueError, match="a size of the sweep must be at least 1, got 0"):
        layer_sweep([0])


def test_half_precision_layers():
    x = layers.images_of(SMALL, settings(dtype=torch.bfloat16))
    assert layers.layer_call(layers.builders()["augmented-auto"](SMALL), x, False)().dtype == torch.bfloat16
