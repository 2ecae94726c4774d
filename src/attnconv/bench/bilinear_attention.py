"""Bilinear attention: the order of its products, ours against each of the three written plainly.

Letters: B batch, C channels, L positions of the map.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attnconv import ops
from attnconv.bench.contest import BOTH, Call, Contest, Contestant, Probe, Settings
from attnconv.ops.bilinear_attention import fastest_order

PROBE_BYTES = 2**30


@dataclass(frozen=True)
class Case:
    """x (B, C, L), W (C, C), gamma (1,)."""

    name: str
    batch: int
    channels: int
    positions: int

    def flops(self, order: str, what: str) -> int:
        """2 a multiply-add of the products in this order; the backward needs each twice."""
        c, n = self.channels, self.positions
        macs = {"scores": n * c**2 + 2 * n**2 * c, "gram": 3 * n * c**2, "gram_weight": 2 * n * c**2 + c**3}[order]
        return 2 * self.batch * macs * (3 if what == BOTH else 1)

    def inputs(self, settings: Settings, grad: bool) -> tuple[Tensor, Tensor, Tensor]:
        torch.manual_seed(settings.seed)
        x = torch.randn(self.batch, self.channels, self.positions)
        weight = torch.randn(self.channels, self.channels) / self.channels
        gamma = torch.full((1,), 0.5 / self.positions)
        x, weight, gamma = (t.to(settings.device, settings.dtype).requires_grad_(grad) for t in (x, weight, gamma))
        return x, weight, gamma


NAMED = (
    Case("X1", 64, 256, 1024),
    Case("X2", 16, 256, 4096),
    Case("X3", 64, 512, 64),
    Case("X4", 64, 1024, 256),
    Case("X5", 64, 2048, 16),
)


def plain_scores(x: Tensor, weight: Tensor, gamma: Tensor) -> Tensor:
    return gamma * (x @ (x.mT @ (weight @ x))) + x


def plain_gram(x: Tensor, weight: Tensor, gamma: Tensor) -> Tensor:
    return gamma * ((x @ x.mT) @ (weight @ x)) + x


def plain_gram_weight(x: Tensor, weight: Tensor, gamma: Tensor) -> Tensor:
    return gamma * (((x @ x.mT) @ weight) @ x) + x


PEERS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "plain-scores": plain_scores,
    "plain-gram": plain_gram,
    "plain-gram_weight": plain_gram_weight,
}


def contestant_names() -> list[str]:
    return ["auto", *PEERS]


def contests(cases: Sequence[Case], settings: Settings) -> list[Contest]:
    """One contest a case and pass."""
    return [_contest(case, what, settings) for case in cases for what in settings.passes]


def _contest(case: Case, what: str, settings: Settings) -> Contest:
    def enter() -> list[Contestant]:
        inputs = functools.cache(lambda: case.inputs(settings, what == BOTH))
        one_image = functools.cache(lambda: Case(case.name, 1, case.channels, case.positions).inputs(settings, True))
        large = 5 * 4 * case.batch * max(case.positions, case.channels) ** 2 > PROBE_BYTES

        def contestant(name: str) -> Contestant:
            order = fastest_order(case.channels, case.positions) if name == "auto" else name.removeprefix("plain-")
            return Contestant(
                name,
                lambda: call_of(name, *inputs()),
                flops=case.flops(order, what),
                probe=Probe(lambda: call_of(name, *one_image()), case.batch, "for one image") if large else None,
            )

        return [contestant(name) for name in contestant_names()]

    return Contest(
        study="bilinear_attention",
        case=case.name,
        shape={"B": case.batch, "C": case.channels, "L": case.positions},
        what=what,
        baseline="auto",
        enter=enter,
    )


def call_of(name: str, x: Tensor, weight: Tensor, gamma: Tensor) -> Call:
    """Forward alone under no_grad, or forward and backward where the inputs require gradients."""
    attention = PEERS.get(name) or functools.partial(ops.bilinear_attention, order=name)
    if not x.requires_grad:

        def forward() -> Tensor:
            with torch.no_grad():
                return attention(x, weight, gamma)

        return forward
    upper = torch.ones_like(x)
    return lambda: torch.autograd.grad(attention(x, weight, gamma), [x, weight, gamma], upper)
