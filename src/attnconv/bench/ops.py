"""Relative and bilinear attention: our implementations compared with torch's, on named cases and in sweeps.

A peer of relative attention takes q, k (B, N, *map, D), v (B, N, *map, E) and a table (2n - 1, D) for each axis or
None, computes the position terms itself, and gives the result of `ops.relative_attention`. A peer of bilinear attention
takes x (B, C, L), W (C, C) and gamma (1,), and multiplies in one order.
Letters: B batch, N heads, T slices, H rows, W columns, L positions of the map, D key / E value channels a head, C
channels, n length of one axis.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from attnconv import ops
from attnconv.bench.benchmark import LOGITS_HELD, Benchmark, Settings, call_of, counted_flops
from attnconv.bench.cases import (
    BILINEAR_NAMES,
    BOTH,
    RELATIVE_NAMES,
    WITHOUT,
    BilinearCase,
    RelativeCase,
    map_size_of,
)
from attnconv.bench.machine import Call
from attnconv.ops.bilinear_attention import fastest_order

META = torch.device("meta")
FLEX_CHANNELS = 16  # FlexAttention on CUDA takes no fewer a head
QUADRATIC = ("eager", "einsum", "sdpa-mask")  # candidates that hold all logits

Inputs = tuple[Tensor, Tensor, Tensor, list[Tensor]]  # q, k, v, tables
Tables = Sequence[Tensor] | None


def relative_inputs(case: RelativeCase, settings: Settings, grad: bool) -> Inputs:
    """Return normal numbers, on the device, contiguous."""
    torch.manual_seed(settings.seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape).to(settings.device, settings.dtype).requires_grad_(grad)

    positions = (case.batch, case.heads, *case.map_size)
    q, k, v = (draw(*positions, width) for width in (case.key_dim, case.key_dim, case.value_dim))
    return q, k, v, [draw(2 * n - 1, case.key_dim) for n in case.map_size if case.tables]


def bilinear_inputs(case: BilinearCase, settings: Settings, grad: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return normal numbers on the device; W and gamma are small."""
    torch.manual_seed(settings.seed)
    x = torch.randn(case.batch, case.channels, case.positions)
    weight = torch.randn(case.channels, case.channels) / case.channels
    gamma = torch.full((1,), 0.5 / case.positions)
    x, weight, gamma = (t.to(settings.device, settings.dtype).requires_grad_(grad) for t in (x, weight, gamma))
    return x, weight, gamma


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
        return counted_flops(relative_call(plain, relative_inputs(case, replace(settings, device=META), grad)))

    return Benchmark(
        study="relative_attention",
        case=case.name,
        shape=case.shape,
        what=what,
        baseline="auto",
        names=[name for name in RELATIVE_NAMES if case.tables or not name.endswith(WITHOUT)],
        inputs=lambda: relative_inputs(case, settings, grad),
        build=relative_call,
        flops=flops,
        held=lambda name: LOGITS_HELD * case.logits if name.removesuffix(WITHOUT) in QUADRATIC else 0,
        size=map_size_of(case),
        exps=case.exps(grad),
        macs=case.macs(grad),
    )


def bilinear_benchmark(case: BilinearCase, what: str, settings: Settings) -> Benchmark:
    """Return the benchmark of one pass."""
    grad = what == BOTH
    products = {"plain-scores": case.positions, "plain-gram": case.channels, "plain-gram_weight": case.channels}

    def flops(name: str) -> int:
        plain = f"plain-{fastest_order(case.channels, case.positions)}" if name == "auto" else name
        return counted_flops(bilinear_call(plain, bilinear_inputs(case, replace(settings, device=META), grad)))

    return Benchmark(
        study="bilinear_attention",
        case=case.name,
        shape={"B": case.batch, "C": case.channels, "L": case.positions},
        what=what,
        baseline="auto",
        names=BILINEAR_NAMES,
        inputs=lambda: bilinear_inputs(case, settings, grad),
        build=bilinear_call,
        flops=flops,
        held=lambda name: LOGITS_HELD * case.batch * products.get(name, 0) ** 2,
    )
