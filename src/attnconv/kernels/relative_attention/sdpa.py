"""Relative attention folded into torch's fused attention: the kernel that exports.

Position terms become additional channels of the queries, and one-hot coordinates additional channels of the keys:
[q, rows, columns] . [k, one-hot row, one-hot column] is the logit. Exact, except that the terms round to the dtype of
q. Memory: L * (D + sum of the axes) per head; torch's fused kernels add no L * L.
Letters: B batch, N heads, L positions of the map, J of that of the keys, D key / E value channels a head, n length of
one axis.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from attnconv.kernels.relative_attention import position_term

WIDEST_ON_CUDA = 256  # channels per head of torch's fused kernels


def why_not(*, width: int, dtype: torch.dtype, device_type: str) -> str | None:
    """Return why folded heads of ``width`` channels, max(D + axes of the map, E), cannot run; None if they can."""
    if device_type == "cuda" and dtype == torch.float64:
        return "torch has no fused kernel for float64 on CUDA"
    if device_type == "cuda" and width > WIDEST_ON_CUDA:
        return f"a folded head of {width} channels (D + axes of the map, or E) is above {WIDEST_ON_CUDA} on CUDA"
    return None


def forward(q: Tensor, k: Tensor, v: Tensor, rel: Sequence[Tensor], mask: Tensor | None, scale: float) -> Tensor:
    """Return (B, N, *map, E) for q (B, N, *map, D), k (B, N, *key map, D), v (B, N, *key map, E).

    ``rel`` is empty or has one table (2n - 1, D) per axis; ``mask`` is None or (B, *key map).
    """
    map_size, value_dim = q.shape[2:-1], v.shape[-1]
    axes = len(map_size)
    queries, keys = [q * scale], [k]
    for axis, (n, table) in enumerate(zip(map_size, rel, strict=True) if len(rel) else ()):
        queries.append(position_term(queries[0], table, axis))
        own_axis = [1] * axes
        own_axis[axis] = n
        one_hot = torch.eye(n, dtype=q.dtype, device=q.device).view(*own_axis, n)
        keys.append(one_hot.expand(*k.shape[:-1], n))
    folded_q = torch.cat(queries, dim=-1).flatten(2, -2)  # (B, N, L, D + axes)
    folded_k = torch.cat(keys, dim=-1).flatten(2, -2)  # (B, N, J, D + axes)
    values = v.flatten(2, -2)
    # A CPU fuses only equal widths of q, k and v; on CUDA multiples of 8 run everywhere.
    width: Any = folded_q.shape[-1] - value_dim
    # Sizes are tensors under torch.jit.trace, where max() would fix the result for all map sizes.
    width = value_dim + (width.clamp(min=0) if isinstance(width, Tensor) else max(width, 0))
    if q.device.type == "cuda":
        width = -(-width // 8) * 8
    folded_q, folded_k, values = (F.pad(t, (0, width - t.shape[-1])) for t in (folded_q, folded_k, values))
    seen = None if mask is None else mask.flatten(1)[:, None, None]  # (B, 1, 1, J)
    y = F.scaled_dot_product_attention(folded_q, folded_k, values, attn_mask=seen, scale=1.0)
    return y[..., :value_dim].unflatten(2, map_size)
