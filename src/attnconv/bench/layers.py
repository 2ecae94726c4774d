"""Attention layers compared with the convolution of equal output and with timm's attention layer.

Letters: B batch, C channels in and out, L positions of the map.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attnconv import ops
from attnconv.bench import benchmark
from attnconv.bench.benchmark import BOTH, Benchmark, CannotRunError, Settings
from attnconv.bench.machine import Call
from attnconv.layers import AugmentedConv2d, list_attention
from attnconv.layers.attention import Attention
from attnconv.layers.registry import AttentionKind, find_attention, is_known

HEADS = 8
QUADRATIC = ("augmented-eager", "timm-bottleneck")  # candidates that hold all logits


@dataclass(frozen=True)
class Case:
    """x (B, C, H, W); each layer's output has the same shape."""

    name: str
    batch: int
    channels: int
    map_size: tuple[int, int]

    @property
    def logits(self) -> int:
        """The number of logits of HEADS heads."""
        return self.batch * HEADS * (self.map_size[0] * self.map_size[1]) ** 2

    def images(self, settings: Settings) -> Tensor:
        """Return normal numbers on the device."""
        torch.manual_seed(settings.seed)
        return torch.randn(self.batch, self.channels, *self.map_size).to(settings.device, settings.dtype)


NAMED = (
    Case("L1", 8, 64, (16, 16)),  # the second layer of convnet3 at 32 pixels
    Case("L2", 8, 160, (32, 32)),  # the first stage of wide_resnet28_10
    Case("L3", 8, 128, (28, 28)),  # stages 2 and 3 of resnet50 at 224 pixels
    Case("L4", 8, 256, (14, 14)),
)


def sweep(sizes: Sequence[int]) -> list[Case]:
    """Return square maps of 64 channels."""
    return [Case(name, batch, 64, map_size) for name, batch, map_size in benchmark.sweep_maps(sizes, heads=HEADS)]


def _augmented(case: Case, **settings: Any) -> nn.Module:
    """Return a 3x3 convolution with attention of the paper's widths in part of its output."""
    return AugmentedConv2d.from_ratios(
        case.channels,
        case.channels,
        3,
        padding=1,
        key_ratio=0.2,
        value_ratio=0.1,
        num_heads=HEADS,
        feat_size=case.map_size,
        **settings,
    )


def _attention_alone(case: Case) -> nn.Module:
    """Return a layer whose whole output is attention, with the heads and widths of timm's layer."""
    c = case.channels
    return AugmentedConv2d(c, c, 1, key_channels=c, value_channels=c, num_heads=4, feat_size=case.map_size)


def _timm_bottleneck(case: Case) -> nn.Module:
    try:
        from timm.layers.bottleneck_attn import BottleneckAttn
    except ImportError as error:
        raise CannotRunError(f"timm's layer cannot be imported ({error}): pip install 'attnconv[timm]'") from None
    return BottleneckAttn(case.channels, feat_size=case.map_size)


BUILDERS: dict[str, Callable[[Case], nn.Module]] = {
    "conv2d": lambda case: nn.Conv2d(case.channels, case.channels, 3, padding=1),
    **{f"augmented-{impl}": functools.partial(_augmented, impl=impl) for impl in ops.IMPLS},
    "augmented-without-positions": functools.partial(_augmented, position=None),
    "attention-alone": _attention_alone,
    "timm-bottleneck": _timm_bottleneck,
}


def builders() -> dict[str, Callable[[Case], nn.Module]]:
    """Return the builder of each layer, including layers of `register_attention` that stand behind a module."""
    kinds = [find_attention(name) for name in list_attention() if is_known(name)]
    kinds = [kind for kind in kinds if not kind.replaces_conv]
    return BUILDERS | {kind.name: functools.partial(_registered, kind) for kind in kinds}


def _registered(kind: AttentionKind, case: Case) -> nn.Module:
    return kind.make(case.channels)


def layer_benchmark(case: Case, what: str, settings: Settings) -> Benchmark:
    """Return the benchmark of one pass."""
    return Benchmark(
        study="layers",
        case=case.name,
        shape={"B": case.batch, "C": case.channels, "H": case.map_size[0], "W": case.map_size[1]},
        what=what,
        baseline="conv2d",
        names=list(builders()),
        inputs=lambda: (case, case.images(settings)),
        build=lambda name, inputs: layer_call(builders()[name](inputs[0]), inputs[1], what == BOTH),
        flops=lambda name: flops(name, case, what == BOTH),
        held=lambda name: benchmark.LOGITS_HELD * case.logits if name in QUADRATIC else 0,
        size=benchmark.map_size_of(case),
    )


def layer_call(layer: nn.Module, x: Tensor, backward: bool) -> Call:
    """Return forward alone, in evaluation, or forward and backward to the input and all parameters, in training."""
    layer = layer.to(x.device, x.dtype).train(backward)
    x = x.detach().requires_grad_(backward)
    return benchmark.call_of(lambda: layer(x), x, [x, *layer.parameters()] if backward else [])


def flops(name: str, case: Case, backward: bool) -> int | None:
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
