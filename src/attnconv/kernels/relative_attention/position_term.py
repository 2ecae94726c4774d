"""The position term of one axis, as the kernels in plain torch add it to their logits.

Letters: B batch, N heads, D key channels a head, n length of one axis.
"""

import torch
from torch import Tensor


def position_term(q: Tensor, table: Tensor, axis: int) -> Tensor:
    """q_i . r[j - i] for all coordinates j along one axis: (B, N, *map, D), (2n - 1, D) -> (B, N, *map, n)."""
    n = q.shape[2 + axis]
    i = torch.arange(n, device=table.device)
    r = table[i[None, :] - i[:, None] + n - 1]  # (n, n, D): r[i, j] is the row of distance j - i
    lines = q.movedim(2 + axis, 0)  # (n, B, N, *other axes, D)
    term = lines.flatten(1, -2) @ r.mT  # (n, B * N * others, n)
    return term.unflatten(1, lines.shape[1:-1]).movedim(0, 2 + axis)
