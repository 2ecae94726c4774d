"""The softmax row of one query: what a position attends to, without forming the rows of all others.

Source: Bello et al. 2019, arXiv:1904.09925, section 3.2, the logits of `relative_attention`.
Letters: B batch, N heads, D key channels a head.
"""

import torch
from torch import Tensor

from attnconv import checks
from attnconv.ops.relative_attention import Tables, slice_tables


def attention_weights(
    q: Tensor, k: Tensor, rel: Tables, *, query: tuple[int, ...], scale: float | None = None
) -> Tensor:
    """Weights of every position j for the one position i = ``query``; memory is linear in the positions.

    Args:
        q: (B, N, *map, D), a map of 1, 2 or 3 axes.
        k: (B, N, *map, D).
        rel: as in `relative_attention`.
        query: one cell of the map, an index an axis.
        scale: factor of the logits; D**-0.5 if None.
    Returns:
        (B, N, *map) in float32 or wider; each map sums to 1.
    Raises:
        ValueError: ``query`` is not a cell of the map.
    """
    map_size = tuple(q.shape[2:-1])
    if len(query) != len(map_size) or not all(0 <= i < n for i, n in zip(query, map_size, strict=True)):
        raise checks.InputError(f"query must be a cell of the map {map_size}, got {tuple(query)}")
    factor = q.shape[-1] ** -0.5 if scale is None else float(scale)
    exact = torch.promote_types(q.dtype, torch.float32)
    row = q[(slice(None), slice(None), *query)].to(exact) * factor  # (B, N, D)
    logits = torch.einsum("bnd,bn...d->bn...", row, k.to(exact))  # (B, N, *map)
    for axis, table in enumerate(slice_tables(rel, q)):
        n, i = map_size[axis], query[axis]
        term = row @ table[n - 1 - i : 2 * n - 1 - i].to(exact).mT  # (B, N, n): distances -i to n - 1 - i
        own_axis = [1] * len(map_size)
        own_axis[axis] = n
        logits = logits + term.unflatten(-1, own_axis)
    return logits.flatten(2).softmax(dim=-1).unflatten(2, map_size)
