"""Relative attention as one would write it with what torch has: the peers that ours are measured beside.

Each takes q, k (B, N, *map, D), v (B, N, *map, E) and a table (2n - 1, D) for each axis, computes the position terms
itself, and gives the result of `ops.relative_attention`. Maps have two axes.
Letters: B batch, N heads, H rows, W columns, L positions of the map, D key / E value channels a head.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

FLEX_CHANNELS = 16  # FlexAttention on CUDA takes no fewer a head


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
PEERS: dict[str, Callable[[], Callable[..., Tensor]]] = {
    "einsum": lambda: einsum,
    "sdpa-mask": lambda: sdpa_mask,
    "flex": _compiled_flex,
}
