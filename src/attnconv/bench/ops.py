"""Relative and bilinear attention: every implementation of ours against what torch has, on named cases and in sweeps.

A peer of relative attention takes q, k (B, N, *map, D), v (B, N, *map, E) and a table (2n - 1, D) for each axis,
computes the position terms itself, and gives the result of `ops.relative_attention`. A peer of bilinear attention takes
x (B, C, L), W (C, C) and gamma (1,), and multiplies in one order.
Letters: B batch, N heads, H rows, W columns, L positions of the map, D key / E value channels a head, C channels.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from attnconv import ops
from attnconv.bench import benchmark
from attnconv.bench.benchmark import BOTH, Benchmark, Probe, Settings, call_of, counted_flops
from attnconv.bench.machine import Call
from attnconv.ops.bilinear_attention import fastest_order

META = torch.device("meta")
WITHOUT = "-without-positions"
FLEX_CHANNELS = 16  # FlexAttention on CUDA takes no fewer a head
BILINEAR_PROBE_BYTES = 2**30

Inputs = tuple[Tensor, Tensor, Tensor, list[Tensor]]  # q, k, v, tables


@dataclass(frozen=True)
class RelativeCase:
    """q, k (B, N, H, W, D), v (B, N, H, W, E) and a table for each axis."""

    name: str
    batch: int
    heads: int
    map_size: tuple[int, int]
    key_dim: int
    value_dim: int

    @property
    def logits(self) -> int:
        """One, and one exponential, for each query and key position."""
        return self.batch * self.heads * math.prod(self.map_size) ** 2

    def inputs(self, settings: Settings, grad: bool) -> Inputs:
        """Return normal numbers, on the device, contiguous."""
        torch.manual_seed(settings.seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape).to(settings.device, settings.dtype).requires_grad_(grad)

        positions = (self.batch, self.heads, *self.map_size)
        q, k, v = (draw(*positions, width) for width in (self.key_dim, self.key_dim, self.value_dim))
        return q, k, v, [draw(2 * n - 1, self.key_dim) for n in self.map_size]


@dataclass(frozen=True)
class BilinearCase:
    """x (B, C, L), W (C, C), gamma (1,)."""

    name: str
    batch: int
    channels: int
    positions: int

    def inputs(self, settings: Settings, grad: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return normal numbers, of which W and gamma are small, on the device."""
        torch.manual_seed(settings.seed)
        x = torch.randn(self.batch, self.channels, self.positions)
        weight = torch.randn(self.channels, self.channels) / self.channels
        gamma = torch.full((1,), 0.5 / self.positions)
        x, weight, gamma = (t.to(settings.device, settings.dtype).requires_grad_(grad) for t in (x, weight, gamma))
        return x, weight, gamma


RELATIVE = (
    RelativeCase("S1", 8, 8, (32, 32), 20, 2),
    RelativeCase("S2", 2, 8, (56, 56), 20, 2),
    RelativeCase("S3", 1, 8, (64, 64), 20, 2),
    RelativeCase("S4", 32, 8, (14, 14), 20, 3),
    RelativeCase("S5", 4, 4, (28, 28), 40, 16),
    RelativeCase("S6", 64, 8, (7, 7), 20, 8),
    RelativeCase("G1", 128, 8, (32, 32), 20, 2),  # for a GPU
    RelativeCase("G2", 128, 8, (16, 16), 20, 4),
    RelativeCase("G3", 128, 8, (28, 28), 20, 2),
)
BILINEAR = (
    BilinearCase("X1", 64, 256, 1024),
    BilinearCase("X2", 16, 256, 4096),
    BilinearCase("X3", 64, 512, 64),
    BilinearCase("X4", 64, 1024, 256),
    BilinearCase("X5", 64, 2048, 16),
)


def sweep(sizes: Sequence[int]) -> list[RelativeCase]:
    """Return relative attention on square maps, N = 8, D = 20, E = 2."""
    maps = benchmark.sweep_maps(sizes, heads=8)
    return [RelativeCase(name, batch, 8, map_size, 20, 2) for name, batch, map_size in maps]


def einsum(q: Tensor, k: Tensor, v: Tensor, rel: list[Tensor]) -> Tensor:
    """The mathematics in three einsums, all logits held."""
    rows, columns = _terms(q, rel)
    logits = torch.einsum("bnhwd,bnyxd->bnhwyx", q * q.shape[-1] ** -0.5, k)
    logits = logits + rows.unsqueeze(-1) + columns.unsqueeze(-2)  # (B, N, H, W, H, W)
    weights = logits.flatten(-2).softmax(dim=-1).unflatten(-1, q.shape[2:4])
    return torch.einsum("bnhwyx,bnyxe->bnhwe", weights, v)


def sdpa_mask(q: Tensor, k: Tensor, v: Tensor, rel: list[Tensor]) -> Tensor:
    """F.scaled_dot_product_attention with the position terms of all pairs as its attn_mask."""
    rows, columns = _terms(q, rel)
    mask = (rows.unsqueeze(-1) + columns.unsqueeze(-2)).flatten(4).flatten(2, 3)  # (B, N, L, L)
    y = F.scaled_dot_product_attention(q.flatten(2, 3), k.flatten(2, 3), v.flatten(2, 3), attn_mask=mask)
    return y.unflatten(2, q.shape[2:4])


def flex(compiled: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, rel: list[Tensor]) -> Tensor:
    """FlexAttention, ``compiled``: the two terms of a query are looked up in score_mod."""
    height, width, values, depth = *q.shape[2:4], v.shape[-1], q.shape[-1]
    rows, columns = (t.flatten(2, 3) for t in _terms(q, rel))  # (B, N, L, H), (B, N, L, W)

    def add_terms(score: Tensor, b: Tensor, n: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + rows[b, n, i, j // width] + columns[b, n, i, j % width]

    q, k, v = (t.flatten(2, 3) for t in (q, k, v))  # (B, N, L, D or E)
    if q.device.type == "cuda":  # zeros change no product, and the value channels they add are cut off again
        q, k, v = (F.pad(t, (0, max(0, FLEX_CHANNELS - t.shape[-1]))) for t in (q, k, v))
    y = compiled(q, k, v, score_mod=add_terms, scale=depth**-0.5)
    return y[..., :values].unflatten(2, (height, width))


def _terms(q: Tensor, rel: list[Tensor]) -> tuple[Tensor, Tensor]:
    """scale * q_i . r[j - i] along each axis: (B, N, H, W, H) and (B, N, H, W, W)."""
    scaled = q * q.shape[-1] ** -0.5
    by_row, by_column = (_by_pair(table) for table in rel)
    return torch.einsum("bnhwd,hyd->bnhwy", scaled, by_row), torch.einsum("bnhwd,wxd->bnhwx", scaled, by_column)


def _by_pair(table: Tensor) -> Tensor:
    """(2n - 1, D) -> (n, n, D): at [i, j] the row of distance j - i."""
    n = (table.shape[0] + 1) // 2
    i = torch.arange(n, device=table.device)
    return table[i[None, :] - i[:, None] + n - 1]


def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    torch.compiler.reset()  # or the compiler gives up on a function that it has seen with many shapes
    return functools.partial(flex, torch.compile(flex_attention, dynamic=False))  # the terms inside fail on a CPU


# Name -> what makes the function that is called; only FlexAttention has to be compiled first.
RELATIVE_PEERS: dict[str, Callable[[], Callable[..., Tensor]]] = {
    "einsum": lambda: einsum,
    "sdpa-mask": lambda: sdpa_mask,
    "flex": _compiled_flex,
}
BILINEAR_PEERS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "plain-scores": lambda x, weight, gamma: gamma * (x @ (x.mT @ (weight @ x))) + x,
    "plain-gram": lambda x, weight, gamma: gamma * ((x @ x.mT) @ (weight @ x)) + x,
    "plain-gram_weight": lambda x, weight, gamma: gamma * (((x @ x.mT) @ weight) @ x) + x,
}
# Ours, in the order of ops.IMPLS, two of them without position terms, and the peers.
RELATIVE_NAMES = (*ops.IMPLS, "auto" + WITHOUT, "eager" + WITHOUT, *RELATIVE_PEERS)
BILINEAR_NAMES = ("auto", *BILINEAR_PEERS)


def relative_call(name: str, inputs: Inputs) -> Call:
    """Return the forward alone, or forward and backward where the inputs require gradients."""
    q, k, v, rel = inputs
    impl, tables = name.removesuffix(WITHOUT), None if name.endswith(WITHOUT) else rel
    peer = RELATIVE_PEERS.get(impl)
    attention = functools.partial(ops.relative_attention, impl=impl) if peer is None else peer()
    leaves = [q, k, v, *(tables or [])] if q.requires_grad else []
    return call_of(lambda: attention(q, k, v, tables), v, leaves)


def bilinear_call(name: str, inputs: tuple[Tensor, Tensor, Tensor]) -> Call:
    """Return the forward alone, or forward and backward where the inputs require gradients."""
    attention = BILINEAR_PEERS.get(name) or functools.partial(ops.bilinear_attention, order=name)
    return call_of(lambda: attention(*inputs), inputs[0], inputs if inputs[0].requires_grad else ())


def relative_benchmark(case: RelativeCase, what: str, settings: Settings) -> Benchmark:
    """Return the benchmark of one pass."""
    grad = what == BOTH

    def flops(name: str) -> int:
        plain = "eager" + WITHOUT if name.endswith(WITHOUT) else "eager"
        return counted_flops(relative_call(plain, case.inputs(replace(settings, device=META), grad)))

    height, width = case.map_size
    return Benchmark(
        study="relative_attention",
        case=case.name,
        shape={"B": case.batch, "N": case.heads, "H": height, "W": width, "D": case.key_dim, "E": case.value_dim},
        what=what,
        baseline="auto",
        names=RELATIVE_NAMES,
        inputs=lambda: case.inputs(settings, grad),
        build=relative_call,
        flops=flops,
        probe=benchmark.probe_of(case, lambda small: small.inputs(settings, grad)),
        size=benchmark.map_size_of(case),
        exps=case.logits,
    )


def bilinear_benchmark(case: BilinearCase, what: str, settings: Settings) -> Benchmark:
    """Return the benchmark of one pass; where much memory is needed, one image is a probe."""
    grad = what == BOTH
    large = 5 * 4 * case.batch * max(case.positions, case.channels) ** 2 > BILINEAR_PROBE_BYTES
    one_image = replace(case, batch=1)

    def flops(name: str) -> int:
        plain = f"plain-{fastest_order(case.channels, case.positions)}" if name == "auto" else name
        return counted_flops(bilinear_call(plain, case.inputs(replace(settings, device=META), grad)))

    return Benchmark(
        study="bilinear_attention",
        case=case.name,
        shape={"B": case.batch, "C": case.channels, "L": case.positions},
        what=what,
        baseline="auto",
        names=BILINEAR_NAMES,
        inputs=lambda: case.inputs(settings, grad),
        build=bilinear_call,
        flops=flops,
        probe=Probe(lambda: one_image.inputs(settings, True), case.batch, "for one image") if large else None,
    )
