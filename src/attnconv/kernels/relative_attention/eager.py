"""Relative attention as the mathematics says it: the reference that every other kernel is held to.

Holds all logits, so memory grows with the square of the number of positions. Twice differentiable.
Letters: B batch, N heads, L positions of the map, D key / E value channels a head.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from attnconv.kernels.relative_attention import position_term


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
