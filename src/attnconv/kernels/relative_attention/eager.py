"""Relative attention as the mathematics says it: the reference that every other kernel is held to.

Holds all logits, so memory grows with the square of the number of positions. Differentiable any number of times: the
other kernels' second derivatives are its own.
Letters: B batch, N heads, L positions of the map, J of that of the keys, D key / E value channels a head.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from attnconv.kernels.relative_attention import position_term


def forward(q: Tensor, k: Tensor, v: Tensor, rel: Sequence[Tensor], mask: Tensor | None, scale: float) -> Tensor:
    """q (B, N, *map, D), k (B, N, *key map, D), v (B, N, *key map, E), rel empty or one (2n - 1, D) an axis, mask None
    or (B, *key map) -> (B, N, *map, E)."""
    dtype, map_size, key_map = q.dtype, q.shape[2:-1], k.shape[2:-1]
    exact = torch.promote_types(dtype, torch.float32)
    q, k, v = q.to(exact) * scale, k.to(exact), v.to(exact)

    axes = len(map_size)
    logits = q.flatten(2, -2) @ k.flatten(2, -2).transpose(2, 3)  # (B, N, L, J)
    logits = logits.reshape(*q.shape[:2], *map_size, *key_map)  # (B, N, *map, *key map)
    for axis, table in enumerate(rel):
        own_axis = [1] * axes  # the term is the same for all other coordinates of j
        own_axis[axis] = map_size[axis]
        logits = logits + position_term(q, table.to(exact), axis).unflatten(-1, own_axis)
    logits = logits.flatten(2, 1 + axes).flatten(3)  # (B, N, L, J)
    if mask is not None:
        logits = logits.masked_fill(~mask.flatten(1)[:, None, None], float("-inf"))
    y = logits.softmax(dim=-1) @ v.flatten(2, -2)  # (B, N, L, E)
    return y.reshape(*q.shape[:-1], v.shape[-1]).to(dtype)
