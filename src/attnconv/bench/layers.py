"""Attention layers compared with the convolution of equal output and with timm's attention layer.

Letters: B batch, C channels in and out, L positions of the map.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from attnconv import ops
from attnconv.bench import benchmark
from attnconv.bench.benchmark import Benchmark, CannotRunError, Settings
from attnconv.bench.cases import BOTH, LAYER_HEADS, LayerCase, map_size_of
from attnconv.bench.machine import Call
from attnconv.layers import AugmentedConv2d, list_attention
from attnconv.layers.attention import Attention
from attnconv.layers.registry import AttentionKind, find_attention, is_known

QUADRATIC = ("augmented-eager", "timm-bottleneck")  # candidates that hold all logits


def _augmented(case: LayerCase, **settings: Any) -> nn.Module:
    """Return a 3x3 convolution with attention of the paper's widths in part of its output."""
    return AugmentedConv2d.from_ratios(
        case.channels,
        case.channels,
        3,
        padding=1,
        key_ratio=0.2,
        value_ratio=0.1,
        num_heads=LAYER_HEADS,
        feat_size=case.map_size,
        **settings,
    )


def _attention_alone(case: LayerCase) -> nn.Module:
    """Return a layer whose whole output is attention, with the heads and widths of timm's layer."""
    c = case.channels
    return AugmentedConv2d(c, c, 1, key_channels=c, value_channels=c, num_heads=4, feat_size=case.map_size)


def _timm_bottleneck(case: LayerCase) -> nn.Module:
    try:
        from timm.layers.bottleneck_attn import BottleneckAttn
    except ImportError as error:
        raise CannotRunError(f"timm's layer cannot be imported ({error}): pip install 'attnconv[timm]'") from None
    return BottleneckAttn(case.channels, feat_size=case.map_size)


BUILDERS: dict[str, Callable[[LayerCase], nn.Module]] = {
    "conv2d": lambda case: nn.Conv2d(case.channels, case.channels, 3, padding=1),
    **{f"augmented-{impl}": functools.partial(_augmented, impl=impl) for impl in ops.IMPLS},
    "augmented-without-positions": functools.partial(_augmented, position=None),
    "attention-alone": _attention_alone,
    "timm-bottleneck": _timm_bottleneck,
}


def builders() -> dict[str, Callable[[LayerCase], nn.Module]]:
    """Return the builder of each layer, including layers of `register_attention` that stand behind a module."""
    kinds = [find_attention(name) for name in list_attention() if is_known(name)]
    kinds = [kind for kind in kinds if not kind.replaces_conv]
    return BUILDERS | {kind.name: functools.partial(_registered, kind) for kind in kinds}


def _registered(kind: AttentionKind, case: LayerCase) -> nn.Module:
    return kind.make(case.channels)


def images_of(case: LayerCase, settings: Settings) -> Tensor:
    """Return normal numbers on the device."""
    torch.manual_seed(settings.seed)
    return torch.randn(case.batch, case.channels, *case.map_size).to(settings.device, settings.dtype)


def layer_benchmark(case: LayerCase, what: str, settings: Settings) -> Benchmark:
    """Return the benchmark of one pass."""
    return Benchmark(
        study="layers",
        case=case.name,
        shape={"B": case.batch, "C": case.channels, "H": case.map_size[0], "W": case.map_size[1]},
        what=what,
        baseline="conv2d",
        names=list(builders()),
        inputs=lambda: (case, images_of(case, settings)),
        build=lambda name, inputs: layer_call(builders()[name](inputs[0]), inputs[1], what == BOTH),
        flops=lambda name: flops(name, case, what == BOTH),
        held=lambda name: benchmark.LOGITS_HELD * case.logits if name in QUADRATIC else 0,
        size=map_size_of(case),
    )


def layer_call(layer: nn.Module, x: Tensor, backward: bool) -> Call:
    """Return forward alone, in evaluation, or forward and backward to the input and all parameters, in training."""
    layer = layer.to(x.device, x.dtype).train(backward)
    x = x.detach().requires_grad_(backward)
    return benchmark.call_of(lambda: layer(x), x, [x, *layer.parameters()] if backward else [])


def flops(name: str, case: LayerCase, backward: bool) -> int | None:
    """Return the FLOPs of one call in the plain form; None if the layer cannot be built here."""
    try:
        layer = with_impl(builders()[name](case), "eager").to("meta")
    except CannotRunError:
        return None
    x = torch.empty(case.batch, case.channels, *case.map_size, device="meta", requires_grad=backward)
    return benchmark.counted_flops(lambda: layer(x).sum().backward() if backward else layer(x))


def with_impl(model: nn.Module, impl: str) -> nn.Module:
    """Set ``impl`` on all attention layers of a network that have a choice of kernel."""
    for module in model.modules():
        if isinstance(module, Attention) and hasattr(module, "impl"):
            module.impl = impl  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
    return model
