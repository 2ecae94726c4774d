"""Relative attention: its cases, and contests between every implementation of ours and what one would use otherwise.

Letters: B batch, N heads, L positions of the map, D key / E value channels a head.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from attnconv import checks, ops
from attnconv.bench.contest import BOTH, Call, Contest, Contestant, Probe, Settings
from attnconv.bench.relative_attention_peers import PEERS

Inputs = tuple[Tensor, Tensor, Tensor, list[Tensor]]  # q, k, v, tables
Attention = Callable[[Tensor, Tensor, Tensor, list[Tensor] | None], Tensor]

WITHOUT = "-without-positions"
SIZES = (8, 16, 32, 64, 128)
SWEEP_LOGITS = 2**26  # of a sweep's batch: 268 MB in float32
PROBE_BYTES = 2**31  # what a probe itself may take, five logits maps of it


@dataclass(frozen=True)
class Case:
    """q, k (B, N, H, W, D), v (B, N, H, W, E) and a table for each axis."""

    name: str
    batch: int
    heads: int
    map_size: tuple[int, int]
    key_dim: int
    value_dim: int

    @property
    def pairs(self) -> int:
        """Query and key positions: one logit and one exponential each."""
        return self.batch * self.heads * math.prod(self.map_size) ** 2

    def flops(self, what: str, *, positions: bool = True) -> int:
        """2 a multiply-add of the two products and of the position terms; the backward needs each twice."""
        terms = self.batch * self.heads * math.prod(self.map_size) * sum(self.map_size) if positions else 0
        forward = 2 * (self.pairs * (self.key_dim + self.value_dim) + terms * self.key_dim)
        return 3 * forward if what == BOTH else forward

    def inputs(self, settings: Settings, grad: bool) -> Inputs:
        """Normal numbers, on the device, contiguous."""
        torch.manual_seed(settings.seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape).to(settings.device, settings.dtype).requires_grad_(grad)

        positions = (self.batch, self.heads, *self.map_size)
        q, k, v = (draw(*positions, width) for width in (self.key_dim, self.key_dim, self.value_dim))
        return q, k, v, [draw(2 * n - 1, self.key_dim) for n in self.map_size]

    def shrunk(self) -> "Case":
        """The case on a map so small, its sides halved, that all logits could be held several times over."""
        case = self
        while 5 * 4 * case.pairs > PROBE_BYTES and min(case.map_size) > 1:
            case = replace(case, map_size=(case.map_size[0] // 2, case.map_size[1] // 2))
        return case


NAMED = (
    Case("S1", 8, 8, (32, 32), 20, 2),
    Case("S2", 2, 8, (56, 56), 20, 2),
    Case("S3", 1, 8, (64, 64), 20, 2),
    Case("S4", 32, 8, (14, 14), 20, 3),
    Case("S5", 4, 4, (28, 28), 40, 16),
    Case("S6", 64, 8, (7, 7), 20, 8),
    Case("G1", 128, 8, (32, 32), 20, 2),  # for a GPU
    Case("G2", 128, 8, (16, 16), 20, 4),
    Case("G3", 128, 8, (28, 28), 20, 2),
)


def sweep(sizes: Sequence[int]) -> list[Case]:
    """Square maps, N = 8, D = 20, E = 2; the batch shrinks as the map grows, from 64 images down to one."""
    cases = []
    for n in sizes:
        checks.integer("a size of the sweep", n, at_least=1)
        cases.append(Case(f"map{n}", max(1, min(64, SWEEP_LOGITS // (8 * n**4))), 8, (n, n), 20, 2))
    return cases


def contestant_names() -> list[str]:
    """Ours, in the order of ops.IMPLS, two of them without position terms, and the peers."""
    return [*ops.IMPLS, "auto" + WITHOUT, "eager" + WITHOUT, *PEERS]


def contests(cases: Sequence[Case], settings: Settings) -> list[Contest]:
    """One contest a case and pass."""
    return [_contest(case, what, settings) for case in cases for what in settings.passes]


def _contest(case: Case, what: str, settings: Settings) -> Contest:
    def enter() -> list[Contestant]:
        inputs = functools.cache(lambda: case.inputs(settings, what == BOTH))
        small = case.shrunk()
        probe_inputs = functools.cache(lambda: small.inputs(settings, what == BOTH))

        def contestant(name: str) -> Contestant:
            probe = None
            if small != case:
                text = f"on a {small.map_size[0]} x {small.map_size[1]} map"
                probe = Probe(lambda: call_of(name, probe_inputs()), case.pairs / small.pairs, text)
            count = case.flops(what, positions=not name.endswith(WITHOUT))
            return Contestant(name, lambda: call_of(name, inputs()), flops=count, probe=probe)

        return [contestant(name) for name in contestant_names()]

    height, width = case.map_size
    shape = {"B": case.batch, "N": case.heads, "H": height, "W": width, "D": case.key_dim, "E": case.value_dim}
    return Contest(
        study="relative_attention",
        case=case.name,
        shape=shape,
        what=what,
        baseline="auto",
        enter=enter,
        size=height if case.name == f"map{height}" else None,
        exps=case.pairs,
    )


def call_of(name: str, inputs: Inputs) -> Call:
    """Forward alone under no_grad, or forward and backward where the inputs require gradients."""
    q, k, v, rel = inputs
    tables = None if name.endswith(WITHOUT) else rel
    impl = name.removesuffix(WITHOUT)
    attention: Attention = PEERS[impl]() if impl in PEERS else functools.partial(ops.relative_attention, impl=impl)
    if not q.requires_grad:

        def forward() -> Tensor:
            with torch.no_grad():
                return attention(q, k, v, tables)

        return forward
    upper = torch.ones_like(v)

    def both() -> tuple[Tensor, ...]:
        return torch.autograd.grad(attention(q, k, v, tables), [q, k, v, *(tables or [])], upper)

    return both
