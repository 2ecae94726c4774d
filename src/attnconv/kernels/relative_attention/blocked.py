"""Relative attention one block of queries at a time: exact, memory linear in the number of positions, plain torch.

The logits of a block stay in one buffer of about the size of a core's cache. It receives the sum of the position terms,
then q k^T through baddbmm, then the exponential in place. The exponential has base 2, which is faster; q includes the
factor log2 e. The forward pass keeps only the log-sum-exp of each query, from which the backward pass recomputes each
block.
Letters: B batch, N heads, M heads of one block, of one image or of several; Q queries of one block, J positions of the
map of the keys; D key / E value channels a head; n length of one axis.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from attnconv.kernels.relative_attention import empty_output

# Logits per block, 4 MiB in float32 forward. The backward pass has more narrow products and gains from larger blocks.
FORWARD_LOGITS, BACKWARD_LOGITS = 2**20, 2**21
LOG2_E = math.log2(math.e)


def forward(
    q: Tensor, k: Tensor, v: Tensor, rel: Sequence[Tensor], mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Return the output (B, N, *map, E) and the log-sum-exp (B, N, *map), float32 or wider, in units of log 2.

    Arguments as "eager"; the mask has a True in each image, and the memory layout of the output is (B, *map, N, E).
    """
    exact = torch.promote_types(q.dtype, torch.float32)
    map_size = q.shape[2:-1]
    tables = [table.to(exact) for table in rel]
    out = empty_output(q, v)
    lse = q.new_empty(q.shape[:-1], dtype=exact)
    logits = q.new_empty(0, dtype=exact)
    for group, ranges in _groups(q, k, FORWARD_LOGITS):
        hidden = _hidden(mask, group)
        keys = k[group].to(exact).flatten(0, 1).flatten(1, -2)  # (M, J, D)
        values = _append(v[group].to(exact), 1.0).flatten(0, 1).flatten(1, -2).mT.contiguous()  # (M, E + 1, J)
        for place in ranges:
            here = (*group, *place)
            queries = (q[here].to(exact) * (scale * LOG2_E)).flatten(0, 1)  # (M, *block, D)
            logits = _logits(queries, keys, tables, place, map_size, hidden, None, logits)  # (M, Q, J)
            largest = logits.amax(dim=2, keepdim=True)
            weights = logits.sub_(largest).exp2_()
            sums = torch.bmm(values, weights.mT).mT  # (M, Q, E + 1): the ones appended to v sum the weights
            total = sums[..., -1:]
            _fill(out[here], sums[..., :-1] / total)
            _fill(lse[here], largest + total.log2())
    return out, lse


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel: Sequence[Tensor],
    mask: Tensor | None,
    out: Tensor,
    lse: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Return the gradients of q, k, v and the tables from ``grad`` (B, N, *map, E), that of the output."""
    exact = lse.dtype
    map_size = q.shape[2:-1]
    tables = [table.to(exact) for table in rel]
    grad_q, grad_k, grad_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
    grad_tables = [torch.zeros_like(table) for table in tables]
    weights = slopes = q.new_empty(0, dtype=exact)
    for group, ranges in _groups(q, k, BACKWARD_LOGITS):
        hidden = _hidden(mask, group)
        keys = k[group].to(exact).flatten(0, 1).flatten(1, -2)  # (M, J, D)
        values = _append(v[group].to(exact), 1.0).flatten(0, 1).flatten(1, -2)  # (M, J, E + 1)
        # Transposed like all narrow products here, for which matrix libraries are up to nine times faster.
        sum_k, sum_v = keys.new_zeros(keys.mT.shape), values.new_zeros(values.mT.shape)  # (M, D, J), (M, E + 1, J)
        for place in ranges:
            here = (*group, *place)
            queries = (q[here].to(exact) * (scale * LOG2_E)).flatten(0, 1)  # (M, *block, D)
            minus = lse[here].flatten(0, 1)
            weights = _logits(queries, keys, tables, place, map_size, hidden, minus, weights).exp2_()  # (M, Q, J)
            upper = grad[here].to(exact)
            # With -grad . out appended to grad and ones to v, one product gives grad_i . v_j - grad_i . out_i.
            upper = torch.cat([upper, -(upper * out[here].to(exact)).sum(-1, keepdim=True)], dim=-1)
            upper = upper.flatten(0, 1).flatten(1, -2)  # (M, Q, E + 1)
            slopes = _buffer(slopes, weights.shape)
            torch.bmm(upper, values.mT, out=slopes)
            slopes.mul_(weights)  # (M, Q, J): the gradient of the logits
            sum_v.baddbmm_(upper.mT, weights)
            sum_k.baddbmm_(queries.flatten(1, -2).mT, slopes)
            slope_q = torch.bmm(slopes, keys).view(queries.shape)
            for axis, (n, table) in enumerate(zip(map_size, tables, strict=True) if tables else ()):
                by_map = slopes.view(*queries.shape[:-1], *map_size)
                others = [a - len(map_size) for a in range(len(map_size)) if a != axis]
                along = by_map.sum(dim=others) if others else by_map  # (M, *block, n)
                spread = along.new_zeros(*along.shape[:-1], 2 * n - 1)
                _by_distance(spread, axis, place[axis].start, n).copy_(along)
                slope_q += spread @ table
                grad_tables[axis] += spread.flatten(0, -2).mT @ queries.flatten(0, -2)
            _fill(grad_q[here], slope_q * scale)
        _fill(grad_k[group], sum_k.mT / LOG2_E)
        _fill(grad_v[group], sum_v[:, :-1].mT)
    return grad_q, grad_k, grad_v, [(g / LOG2_E).to(table.dtype) for g, table in zip(grad_tables, rel, strict=True)]


def _groups(q: Tensor, k: Tensor, most: int) -> Iterator[tuple[tuple[slice, slice], list[tuple[slice, ...]]]]:
    """Yield images and heads that share blocks of up to ``most`` logits, with the map ranges of each block.

    Whole images, or heads of an image, share a block if all their logits fit. Otherwise a head is cut along its first
    axis, and along the next one if a single step of the first is too large.
    """
    batch, heads, *map_size = q.shape[:-1]
    keys = math.prod(k.shape[2:-1])
    pairs = math.prod(map_size) * keys
    if batch * heads * pairs == 0:
        return
    together = min(heads, max(1, most // pairs))
    images = max(1, most // (heads * pairs))
    queries = max(1, most // (together * keys))
    ranges: list[tuple[slice, ...]] = [()]
    for axis, n in enumerate(map_size):
        step = min(n, max(1, queries // math.prod(map_size[axis + 1 :])))
        ranges = [(*r, slice(i, min(i + step, n))) for r in ranges for i in range(0, n, step)]
    for image in range(0, batch, images):
        for first in range(0, heads, together):
            group = slice(image, min(image + images, batch)), slice(first, min(first + together, heads))
            yield group, ranges


def _hidden(mask: Tensor | None, group: tuple[slice, slice]) -> Tensor | None:
    """Return True for masked keys (M, 1, J) of a group; None without a mask."""
    if mask is None:
        return None
    images, heads = group
    return ~mask[images].flatten(1).repeat_interleave(heads.stop - heads.start, dim=0).unsqueeze(1)


def _fill(part: Tensor, flat: Tensor) -> None:
    """Copy ``flat`` (M, ...) to ``part`` (images, heads, ...), which has the same elements in the same order."""
    part.copy_(flat.reshape(part.shape))


def _logits(
    queries: Tensor,
    keys: Tensor,
    tables: Sequence[Tensor],
    place: tuple[slice, ...],
    map_size: Sequence[int],
    hidden: Tensor | None,
    minus: Tensor | None,
    buffer: Tensor,
) -> Tensor:
    """Return q_i . (k_j + r[j - i]) - minus_i (M, Q, J), -inf for ``hidden`` keys, of queries (M, *block, D)."""
    flat = queries.flatten(1, -2)  # (M, Q, D)
    logits = _buffer(buffer, (*flat.shape[:2], keys.shape[1]))
    if not tables:
        torch.bmm(flat, keys.mT, out=logits)
        if minus is not None:
            logits.sub_(minus.flatten(1).unsqueeze(-1))
        return logits if hidden is None else logits.masked_fill_(hidden, float("-inf"))
    terms = []
    for axis, (n, table) in enumerate(zip(map_size, tables, strict=True)):
        term = _by_distance(queries @ table.mT, axis, place[axis].start, n)  # (M, *block, n)
        if minus is not None and axis == 0:
            term = term - minus.unsqueeze(-1)
        own_axis = [1] * len(map_size)
        own_axis[axis] = n
        terms.append(term.unflatten(-1, own_axis))
    by_map = logits.view(*queries.shape[:-1], *map_size)
    if len(terms) == 1:
        by_map.copy_(terms[0])
    else:
        torch.add(terms[0], terms[1].expand_as(by_map), out=by_map)
    for term in terms[2:]:
        by_map.add_(term)
    logits.baddbmm_(flat, keys.mT)
    return logits if hidden is None else logits.masked_fill_(hidden, float("-inf"))


def _by_distance(rows: Tensor, axis: int, start: int, n: int) -> Tensor:
    """Return a view by position (M, *block, n) of ``rows`` by distance (M, *block, 2n - 1).

    Query i of ``axis`` in a block from ``start`` finds position j in column j - i + n - 1, so a step along the axis
    moves one column back.
    """
    strides = list(rows.stride())
    strides[1 + axis] -= 1
    return rows.as_strided((*rows.shape[:-1], n), strides, rows.storage_offset() + n - 1 - start)


def _append(t: Tensor, value: float) -> Tensor:
    """Return (..., E + 1) with ``value`` appended to ``t`` (..., E)."""
    return torch.nn.functional.pad(t, (0, 1), value=value)


def _buffer(buffer: Tensor, shape: Sequence[int]) -> Tensor:
    """Return ``buffer``, or a new one if its shape differs, as for the last block of an axis."""
    return buffer if buffer.shape == tuple(shape) else buffer.new_empty(tuple(shape))
