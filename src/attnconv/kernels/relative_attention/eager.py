"""Relative attention exactly as the formula: the reference for all other kernels.

It holds all logits, so memory is quadratic in the number of positions. It can be differentiated any number of times and
provides the second derivatives of the other kernels.
Letters: B batch, N heads, L positions of the map, J of that of the keys, D key / E value channels a head.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from attnconv.kernels.relative_attention import position_term


def forward(q: Tensor, k: Tensor, v: Tensor, rel: Sequence[Tensor], mask: Tensor | None, scale: float) -> Tensor:
    """Return (B, N, *map, E) for q (B, N, *map, D), k (B, N, *key map, D), v (B, N, *key map, E).

    ``rel`` is empty or has one table (2n - 1, D) per axis; ``mask`` is None or (B, *key map).
    """
    dtype, map_size, key_map = q.dtype, q.shape[2:-1], k.shape[2:-1]
    exact = torch.promote_types(dtype, torch.float32)
    q, k, v = q.to(exact) * scale, k.to(exact), v.to(exact)

    axes = len(map_size)
    logits = q.flatten(2, -2) @ k.flatten(2, -2).transpose(2, 3)  # (B, N, L, J)
    logits = logits.reshape(*q.shape[:2], *map_size, *key_map)  # (B, N, *map, *key map)
    for axis, table in enumerate(rel):
        own_axis = [1] * axes  # the term does not depend on the other coordinates of j
        own_axis[axis] = map_size[axis]
        logits = logits + position_term(q, table.to(exact), axis).unflatten(-1, own_axis)
    logits = logits.flatten(2, 1 + axes).flatten(3)  # (B, N, L, J)
    if mask is not None:
        logits = logits.masked_fill(~mask.flatten(1)[:, None, None], float("-inf"))
    y = logits.softmax(dim=-1) @ v.flatten(2, -2)  # (B, N, L, E)
    return y.reshape(*q.shape[:-1], v.shape[-1]).to(dtype)
