"""How much each position of a map adds to one of them in `bilinear_attention`: one column of S, without the others.

Source: SimpleSelfAttention (2019), S = x^T W x.
Letters: B batch, C channels, L positions of the map, K kernel of the weight over the flattened map.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from attnconv import checks


def bilinear_weights(x: Tensor, weight: Tensor, *, query: tuple[int, ...], normalize: bool = False) -> Tensor:
    """The weights s of every position i for the one position j = ``query``: s_i = x_i . (W x)_j, signed.

    sum_i s_i x_i is what `bilinear_attention` multiplies by gamma and adds to x there. The weights are no shares: they
    can be negative, and do not sum to 1. Where W is symmetric they are the row of S as well as its column. Memory is
    linear in the positions.

    Args:
        x: (B, C, *map), any number of map axes.
        weight: (C, C), or (C, C, K) with K odd, as a 1-D convolution of the flattened map holds it.
        query: one cell of the map, an index an axis.
        normalize: divide by L.
    Returns:
        (B, *map) in float32 or wider.
    Raises:
        ValueError: ``query`` is not a cell of the map, or the weight does not fit ``x``.
    """
    map_size, c = tuple(x.shape[2:]), x.shape[1]
    if len(query) != len(map_size) or not all(0 <= i < n for i, n in zip(query, map_size, strict=True)):
        raise checks.InputError(f"query must be a cell of the map {map_size}, got {tuple(query)}")
    if tuple(weight.shape[:2]) != (c, c) or weight.dim() > 3 or weight.shape[2:].numel() % 2 == 0:
        raise checks.InputError(f"weight must be ({c}, {c}) or ({c}, {c}, odd), got {tuple(weight.shape)}")
    exact = torch.promote_types(x.dtype, torch.float32)
    weight = weight.reshape(c, c, -1).to(exact)  # (C, C, K)
    flat = x.flatten(2).to(exact)  # (B, C, L)
    at = 0
    for i, n in zip(query, map_size, strict=True):
        at = at * n + i
    around = range(at - weight.shape[2] // 2, at + weight.shape[2] // 2 + 1)
    window = flat[:, :, max(around.start, 0) : around.stop]  # (B, C, K), fewer at the ends of the map
    window = F.pad(window, (max(-around.start, 0), max(around.stop - flat.shape[2], 0)))
    row = torch.einsum("oik,bik->bo", weight, window)  # (B, C): (W x)_j
    weights = torch.einsum("bc,bcl->bl", row, flat)  # (B, L)
    return (weights / math.prod(map_size) if normalize else weights).unflatten(1, map_size)
