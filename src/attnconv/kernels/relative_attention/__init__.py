"""Kernels of ops.relative_attention and the functions that they share.

Letters: B batch, N heads, D key / E value channels a head, n length of one axis.
"""

import torch
from torch import Tensor


def empty_output(q: Tensor, v: Tensor) -> Tensor:
    """Return an empty (B, N, *map, E) with memory layout (B, *map, N, E), whose heads merge without a copy."""
    axes = range(2, q.dim() - 1)
    shape = (*q.shape[:-1], v.shape[-1])
    return torch.empty_permuted(shape, (0, *axes, 1, q.dim() - 1), dtype=q.dtype, device=q.device)


def position_term(q: Tensor, table: Tensor, axis: int) -> Tensor:
    """Return q_i . r[j - i] for all j along one axis (B, N, *map, n), from q (B, N, *map, D) and r (2n - 1, D)."""
    n = q.shape[2 + axis]
    i = torch.arange(n, device=table.device)
    r = table[i[None, :] - i[:, None] + n - 1]  # (n, n, D): r[i, j] is the row of distance j - i
    lines = q.movedim(2 + axis, 0)  # (n, B, N, *other axes, D)
    # reshape and transpose here and in eager: the older ONNX exporter lacks mT, and its unflatten fixes sizes.
    term = lines.flatten(1, -2) @ r.transpose(1, 2)  # (n, B * N * others, n)
    return term.reshape(n, *lines.shape[1:-1], n).movedim(0, 2 + axis)
