"""Attention layers against the convolution of equal output, and against the attention layer that timm ships.

Letters: B batch, C channels in and out, L positions of the map.
"""

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from attnconv import checks, ops
from attnconv.bench.contest import BOTH, Call, CannotRunError, Contest, Contestant, Probe, Settings
from attnconv.layers import AugmentedConv2d, SelfAttention, SimpleSelfAttention

HEADS = 8
SWEEP_LOGITS = 2**26
PROBE_BYTES = 2**31


@dataclass(frozen=True)
class Case:
    """x (B, C, H, W); each layer's output has the same shape."""

    name: str
    batch: int
    channels: int
    map_size: tuple[int, int]

    @property
    def logits(self) -> int:
        return self.batch * HEADS * (self.map_size[0] * self.map_size[1]) ** 2

    def shrunk(self) -> "Case":
        """The case on a map so small, its sides halved, that all logits could be held several times over."""
        case = self
        while 5 * 4 * case.logits > PROBE_BYTES and min(case.map_size) > 1:
            case = replace(case, map_size=(case.map_size[0] // 2, case.map_size[1] // 2))
        return case


NAMED = (
    Case("L1", 8, 64, (16, 16)),  # the second layer of convnet3 at 32 pixels
    Case("L2", 8, 160, (32, 32)),  # the first stage of wide_resnet28_10
    Case("L3", 8, 128, (28, 28)),  # stages 2 and 3 of resnet50 at 224 pixels
    Case("L4", 8, 256, (14, 14)),
)


def sweep(sizes: Sequence[int]) -> list[Case]:
    """Square maps of 64 channels; the batch shrinks as the map grows, from 64 images down to one."""
    cases = []
    for n in sizes:
        checks.integer("a size of the sweep", n, at_least=1)
        cases.append(Case(f"map{n}", max(1, min(64, SWEEP_LOGITS // (HEADS * n**4))), 64, (n, n)))
    return cases


def _augmented(case: Case, **settings: Any) -> nn.Module:
    """A 3x3 convolution, part of whose output is attention of the paper's widths."""
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
    """All of the output from attention, with the heads and widths that timm's layer has by default."""
    return AugmentedConv2d(
        case.channels,
        case.channels,
        1,
        key_channels=case.channels,
        value_channels=case.channels,
        num_heads=4,
        feat_size=case.map_size,
    )


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
    "sagan": lambda case: SelfAttention(case.channels),
    "simple": lambda case: SimpleSelfAttention(case.channels),
}


def contestant_names() -> list[str]:
    return list(BUILDERS)


def contests(cases: Sequence[Case], settings: Settings) -> list[Contest]:
    """One contest a case and pass."""
    return [_contest(case, what, settings) for case in cases for what in settings.passes]


def _contest(case: Case, what: str, settings: Settings) -> Contest:
    backward = what == BOTH

    def enter() -> list[Contestant]:
        images = functools.cache(lambda: draw(case, settings))
        small = case.shrunk()
        small_images = functools.cache(lambda: draw(small, settings))

        def contestant(name: str) -> Contestant:
            probe = None
            if small != case:
                text = f"on a {small.map_size[0]} x {small.map_size[1]} map"
                factor = case.logits / small.logits
                probe = Probe(lambda: call_of(name, small, small_images(), backward), factor, text)
            return Contestant(
                name,
                lambda: call_of(name, case, images(), backward),
                flops=flops(name, case, backward),
                probe=probe,
            )

        return [contestant(name) for name in BUILDERS]

    return Contest(
        study="layers",
        case=case.name,
        shape={"B": case.batch, "C": case.channels, "H": case.map_size[0], "W": case.map_size[1]},
        what=what,
        baseline="conv2d",
        enter=enter,
        size=case.map_size[0] if case.name == f"map{case.map_size[0]}" else None,
    )


def draw(case: Case, settings: Settings) -> Tensor:
    torch.manual_seed(settings.seed)
    return torch.randn(case.batch, case.channels, *case.map_size).to(settings.device, settings.dtype)


def call_of(name: str, case: Case, x: Tensor, backward: bool) -> Call:
    """Forward alone, in evaluation, or forward and backward to the input and all parameters, in training."""
    layer = BUILDERS[name](case).to(x.device, x.dtype).train(backward)
    if not backward:

        def forward() -> Tensor:
            with torch.no_grad():
                return layer(x)

        return forward
    x = x.detach().requires_grad_()
    upper = torch.ones_like(x)
    parameters = list(layer.parameters())
    return lambda: torch.autograd.grad(layer(x), [x, *parameters], upper)


def flops(name: str, case: Case, backward: bool) -> int | None:
    """2 a multiply-add of one call, counted on the meta device in the plain form; None if it cannot be built there."""
    try:
        layer = copy.deepcopy(BUILDERS[name](case)).to("meta")
    except CannotRunError:
        return None
    for module in layer.modules():
        if isinstance(module, AugmentedConv2d):
            module.impl = "eager"
    x = torch.empty(case.batch, case.channels, *case.map_size, device="meta", requires_grad=backward)
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(backward):
        y = layer(x)
        if backward:
            y.backward(torch.empty_like(y))
    return counter.get_total_flops()
