"""Relative attention as the mathematics says it: the reference that every other kernel is held to.

Holds all logits, so memory grows with the square of the number of positions. Twice differentiable.
Letters: B batch, N heads, L positions of the map, D key / E value channels a head, n length of one axis.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def forward(q: Tensor, k: Tensor, v: Tensor, rel: Sequence[Tensor], scale: float) -> Tensor:
    """q, k (B, N, *map, D), v (B, N, *map, E), rel empty or one (2n - 1, D) an axis -> (B, N, *map, E)."""
    dtype, map_size = q.dtype, q.shape[2:-1]
    exact = torch.promote_types(dtype, torch.float32)
    q, k, v = q.to(exact) * scale, k.to(exact), v.to(exact)

    axes = len(map_size)
    logits = q.flatten(2, -2) @ k.flatten(2, -2).mT  # (B, N, L, L)
    logits = logits.unflatten(3, map_size).unflatten(2, map_size)  # (B, N, *map, *map)
    for axis, table in enumerate(rel):
        own_axis = [1] * axes  # the term is the same for all other coordinates of j
        own_axis[axis] = map_size[axis]
        logits = logits + position_term(q, table.to(exact), axis).unflatten(-1, own_axis)
    weights = logits.flatten(-axes).softmax(dim=-1)  # (B, N, *map, L)
    y = weights.flatten(2, -2) @ v.flatten(2, -2)  # (B, N, L, E)
    return y.unflatten(2, map_size).to(dtype)


def position_term(q: Tensor, table: Tensor, axis: int) -> Tensor:
    """q_i . r[j - i] for all coordinates j along one axis: (B, N, *map, D), (2n - 1, D) -> (B, N, *map, n)."""
    n = q.shape[2 + axis]
    i = torch.arange(n, device=table.device)
    r = table[i[None, :] - i[:, None] + n - 1]  # (n, n, D): r[i, j] is the row of distance j - i
    lines = q.movedim(2 + axis, 0)  # (n, B, N, *other axes, D)
    term = lines.flatten(1, -2) @ r.mT  # (n, B * N * others, n)
    return term.unflatten(1, lines.shape[1:-1]).movedim(0, 2 + axis)
