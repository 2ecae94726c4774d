"""Relative and bilinear attention: our implementations compared with torch's, on named cases and in sweeps.

A peer of relative attention takes q, k (B, N, *map, D), v (B, N, *map, E) and a table (2n - 1, D) for each axis or
None, computes the position terms itself, and gives the result of `ops.relative_attention`. A peer of bilinear attention
takes x (B, C, L), W (C, C) and gamma (1,), and multiplies in one order.
Letters: B batch, N heads, T slices, H rows, W columns, L positions of the map, D key / E value channels a head, C
channels, n length of one axis.
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
from attnconv.bench.benchmark import BOTH, LOGITS_HELD, Benchmark, Settings, call_of, counted_flops
from attnconv.bench.machine import Call
from attnconv.ops.bilinear_attention import fastest_order

META = torch.device("meta")
WITHOUT = "-without-positions"
FLEX_CHANNELS = 16  # FlexAttention on CUDA takes no fewer a head
QUADRATIC = ("eager", "einsum", "sdpa-mask")  # candidates that hold all logits

Inputs = tuple[Tensor, Tensor, Tensor, list[Tensor]]  # q, k, v, tables
Tables = Sequence[Tensor] | None


@dataclass(frozen=True)
class RelativeCase:
    """q, k (B, N, *map, D), v (B, N, *map, E) and, if ``tables``, one for each of the one to three axes."""

    name: str
    batch: int
    heads: int
    map_size: tuple[int, ...]
    key_dim: int
    value_dim: int
    tables: bool = True

    @property
    def logits(self) -> int:
        """One for each query and key position."""
        return self.batch * self.heads * math.prod(self.map_size) ** 2

    def exps(self, backward: bool) -> int:
        """One for each logit; a backward of linear memory computes them again."""
        return self.logits * (2 if backward else 1)

    def macs(self, backward: bool) -> int:
        """Multiply-adds of the products that every kernel of linear memory needs; position terms need fewer.

        Forward the logits and the output; backward the logits again, and the gradients of weights, v, q and k.
        """
        forward = self.key_dim + self.value_dim
        return self.logits * (forward + 3 * self.key_dim + 2 * self.value_dim if backward else forward)

    @property
    def shape(self) -> dict[str, int]:
        """Names and sizes, as records have them."""
        axes = dict(zip(("T", "H", "W")[-len(self.map_size) :], self.map_size, strict=True))
        sizes = {"B": self.batch, "N": self.heads, **axes, "D": self.key_dim, "E": self.value_dim}
        return sizes if self.tables else {**sizes, "tables": 0}

    def inputs(self, settings: Settings, grad: bool) -> Inputs:
        """Return normal numbers, on the device, contiguous."""
        torch.manual_seed(settings.seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape).to(settings.device, settings.dtype).requires_grad_(grad)

        positions = (self.batch, self.heads, *self.map_size)
        q, k, v = (draw(*positions, width) for width in (self.key_dim, self.key_dim, self.value_dim))
        return q, k, v, [draw(2 * n - 1, self.key_dim) for n in self.map_size if self.tables]


@dataclass(frozen=True)
class BilinearCase:
    """x (B, C, L), W (C, C), gamma (1,)."""

    name: str
    batch: int
    channels: int
    positions: int

    def inputs(self, settings: Settings, grad: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return normal numbers on the device; W and gamma are small."""
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
    RelativeCase("R14", 8, 8, (14, 14), 32, 6),  # stages 3 and 4 of aa_resnet50 at 224 pixels
    RelativeCase("R7", 8, 8, (7, 7), 64, 12),
    RelativeCase("SAGAN", 8, 1, (32, 32), 32, 256, tables=False),
    RelativeCase("1D", 2, 4, (4096,), 20, 4),
    RelativeCase("3D", 2, 4, (8, 16, 16), 20, 4),
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


def einsum(q: Tensor, k: Tensor, v: Tensor, rel: Tables) -> Tensor:
    """Compute attention by einsum, holding all logits."""
    map_size, scaled = q.shape[2:-1], q * q.shape[-1] ** -0.5
    logits = torch.einsum("bnid,bnjd->bnij", scaled.flatten(2, -2), k.flatten(2, -2))
    if rel is not None:
        logits = logits + _bias(q, rel)
    y = torch.einsum("bnij,bnje->bnie", logits.softmax(dim=-1), v.flatten(2, -2))
    return y.unflatten(2, map_size)


def sdpa_mask(q: Tensor, k: Tensor, v: Tensor, rel: Tables) -> Tensor:
    """Compute attention by F.scaled_dot_product_attention, with the position terms of all pairs as attn_mask."""
    mask = None if rel is None else _bias(q, rel)
    y = F.scaled_dot_product_attention(q.flatten(2, -2), k.flatten(2, -2), v.flatten(2, -2), attn_mask=mask)
    return y.unflatten(2, q.shape[2:-1])


def flex(compiled: Callable[..., Tensor], q: Tensor, k: Tensor, v: Tensor, rel: Tables) -> Tensor:
    """Compute attention by ``compiled`` FlexAttention, whose score_mod looks up the position terms."""
    map_size, values, depth = q.shape[2:-1], v.shape[-1], q.shape[-1]
    terms = [term.flatten(2, -2) for term in _terms(q, rel or ())]  # (B, N, L, n) of each axis

    def add_terms(score: Tensor, b: Tensor, n: Tensor, i: Tensor, j: Tensor) -> Tensor:
        for axis in reversed(range(1, len(terms))):
            score = score + terms[axis][b, n, i, j % map_size[axis]]
            j = j // map_size[axis]
        return score + terms[0][b, n, i, j]

    q, k, v = (t.flatten(2, -2) for t in (q, k, v))  # (B, N, L, D or E)
    if q.device.type == "cuda":  # zeros change no product, and the value channels they add are cut off again
        q, k, v = (F.pad(t, (0, max(0, FLEX_CHANNELS - t.shape[-1]))) for t in (q, k, v))
    y = compiled(q, k, v, score_mod=add_terms if terms else None, scale=depth**-0.5)
    return y[..., :values].unflatten(2, map_size)


def _bias(q: Tensor, rel: Sequence[Tensor]) -> Tensor:
    """Return the position terms of all pairs, (B, N, L, L)."""
    axes, total = len(rel), None
    for axis, term in enumerate(_terms(q, rel)):
        by_key = term.flatten(2, -2)[(..., *[None] * axis, slice(None), *[None] * (axes - 1 - axis))]
        total = by_key if total is None else total + by_key
    assert total is not None
    return total.flatten(3)


def _terms(q: Tensor, rel: Sequence[Tensor]) -> list[Tensor]:
    """Return scale * q_i . r[j - i] along each axis: (B, N, *map, n)."""
    scaled, found = q * q.shape[-1] ** -0.5, []
    for axis, table in enumerate(rel, start=2):
        term = torch.einsum("...id,ijd->...ij", scaled.movedim(axis, -2), _by_pair(table))
        found.append(term.movedim(-2, axis))
    return found


def _by_pair(table: Tensor) -> Tensor:
    """Return (2n - 1, D) as (n, n, D), with the row of distance j - i at [i, j]."""
    n = (table.shape[0] + 1) // 2
    i = torch.arange(n, device=table.device)
    return table[i[None, :] - i[:, None] + n - 1]


def _compiled_flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    torch.compiler.reset()  # or the compiler gives up on a function that it has seen with many shapes
    return functools.partial(flex, torch.compile(flex_attention, dynamic=False))  # the terms inside fail on a CPU


# Name -> maker of the function; only FlexAttention is compiled first.
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
    impl, tables = name.removesuffix(WITHOUT), None if name.endswith(WITHOUT) or not rel else rel
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

    return Benchmark(
        study="relative_attention",
        case=case.name,
        shape=case.shape,
        what=what,
        baseline="auto",
        names=[name for name in RELATIVE_NAMES if case.tables or not name.endswith(WITHOUT)],
        inputs=lambda: case.inputs(settings, grad),
        build=relative_call,
        flops=flops,
        held=lambda name: LOGITS_HELD * case.logits if name.removesuffix(WITHOUT) in QUADRATIC else 0,
        size=benchmark.map_size_of(case),
        exps=case.exps(grad),
        macs=case.macs(grad),
    )


def bilinear_benchmark(case: BilinearCase, what: str, settings: Settings) -> Benchmark:
    """Return the benchmark of one pass."""
    grad = what == BOTH
    products = {"plain-scores": case.positions, "plain-gram": case.channels, "plain-gram_weight": case.channels}

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
        held=lambda name: LOGITS_HELD * case.batch * products.get(name, 0) ** 2,
    )
