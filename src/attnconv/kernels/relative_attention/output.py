"""The memory that kernels write their output to.

Letters: B batch, N heads, E value channels a head.
"""

import torch
from torch import Tensor


def empty_output(q: Tensor, v: Tensor) -> Tensor:
    """(B, N, *map, E) laid out as (B, *map, N, E): then the heads merge into channels_last without a copy."""
    axes = range(2, q.dim() - 1)
    shape = (*q.shape[:-1], v.shape[-1])
    return torch.empty_permuted(shape, (0, *axes, 1, q.dim() - 1), dtype=q.dtype, device=q.device)
