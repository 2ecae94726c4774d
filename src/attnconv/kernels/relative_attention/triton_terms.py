"""Position terms of a tile of logits, forward and backward, as parts of a GPU program.

A tile of queries is ROWS x COLUMNS neighbours of one plane; a tile of keys is LINES lines by KEY_COLUMNS of one plane.
The term of an axis depends only on the distance: the queries times a window of the table give it for each distance. A
gather brings the column terms into the order of the keys; all lines share them. The line terms of GROUP lines come from
one product per row of the tile and are added line by line.
Letters: H lines (rows), W columns of the map; M queries, J keys of one tile, T distances of one window; D key channels
a head.
"""

import triton
import triton.language as tl


@triton.jit
def offset(a, h, w, stride_a, stride_h, stride_w):
    """Return the offset of a position; between tiles it may exceed 2**31, within a tile it does not."""
    return tl.cast(a, tl.int64) * stride_a + tl.cast(h, tl.int64) * stride_h + tl.cast(w, tl.int64) * stride_w


@triton.jit
def _window(table, first, length, D: tl.constexpr, BLOCK_D: tl.constexpr, WINDOW: tl.constexpr):
    """Return the rows from ``first`` on of a table (2 * length - 1, D), zero beyond its ends: (T, D)."""
    row = first + tl.arange(0, WINDOW)
    d = tl.arange(0, BLOCK_D)
    inside = (row >= 0) & (row < 2 * length - 1)
    return tl.load(table + row[:, None] * D + d[None, :], mask=inside[:, None] & (d < D)[None, :], other=0.0)


@triton.jit
def column_terms(
    q, table, start, first, W,
    TABLES: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, LINES: tl.constexpr,
    KEY_COLUMNS: tl.constexpr, WINDOW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return the terms (M, J) of key columns from ``start`` on for queries from column ``first`` on.

    They are -inf beyond the map.
    """
    i = tl.arange(0, ROWS * COLUMNS) % COLUMNS
    j = tl.arange(0, LINES * KEY_COLUMNS) % KEY_COLUMNS
    index = j[None, :] - i[:, None] + (COLUMNS - 1)
    if TABLES >= 1:
        window = _window(table, start - first - (COLUMNS - 1) + W - 1, W, D, q.shape[1], WINDOW)
        by_distance = tl.dot(q, tl.trans(window), input_precision=PRECISION)  # (M, T)
        terms = tl.gather(by_distance, index, axis=1)
    else:
        terms = tl.zeros(index.shape, tl.float32)
    return tl.where((start + j < W)[None, :], terms, float("-inf"))


@triton.jit
def line_terms(
    q, table, plane, start, first, H,
    D: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return the terms (M, GROUP) of lines from ``start`` on for queries from line ``first`` on, plus ``plane``."""
    i = tl.arange(0, ROWS * COLUMNS) // COLUMNS
    terms = tl.broadcast_to(plane[:, None], (ROWS * COLUMNS, GROUP))
    for r in range(ROWS):
        window = _window(table, start - first - r + H - 1, H, D, q.shape[1], GROUP)
        own = q if ROWS == 1 else tl.where((i == r)[:, None], q, 0.0).to(q.dtype)
        terms = tl.dot(own, tl.trans(window), terms, input_precision=PRECISION)
    return terms


@triton.jit
def plane_terms(q, table, row, TABLES: tl.constexpr, D: tl.constexpr):
    """Return q times one row of the planes' table (M,), since the whole tile has one distance."""
    if TABLES >= 3:
        d = tl.arange(0, q.shape[1])
        distance = tl.load(table + row * D + d, mask=d < D, other=0.0).to(tl.float32)
        terms = tl.sum(q.to(tl.float32) * distance[None, :], axis=1)
    else:
        terms = tl.zeros((q.shape[0],), tl.float32)
    return terms


@triton.jit
def pick_lines(group, l, LINES: tl.constexpr, KEY_COLUMNS: tl.constexpr):
    """Return the terms (M, J) of LINES lines from ``l`` on, a multiple of LINES, from ``group`` (M, GROUP)."""
    M: tl.constexpr = group.shape[0]
    parts = tl.reshape(group, (M, group.shape[1] // LINES, LINES))
    here = tl.arange(0, parts.shape[1]) == l // LINES
    terms = tl.sum(tl.where(here[None, :, None], parts, 0.0), axis=1)  # (M, LINES)
    return tl.reshape(tl.broadcast_to(tl.expand_dims(terms, 2), (M, LINES, KEY_COLUMNS)), (M, LINES * KEY_COLUMNS))


@triton.jit
def put_lines(slopes, l, LINES: tl.constexpr, GROUP: tl.constexpr):
    """Return the sums of ``slopes`` (M, J) along each line at their place in (M, GROUP): `pick_lines` backward."""
    M: tl.constexpr = slopes.shape[0]
    sums = tl.sum(tl.reshape(slopes, (M, LINES, slopes.shape[1] // LINES)), axis=2)  # (M, LINES)
    here = tl.arange(0, GROUP // LINES) == l // LINES
    return tl.reshape(tl.where(here[None, :, None], tl.expand_dims(sums, 1), 0.0), (M, GROUP))


@triton.jit
def hide(logits, mask, inside):
    """Return the logits (M, J) with -inf for keys whose byte at ``mask`` (J,) is 0."""
    seen = tl.load(mask, mask=inside, other=0) != 0
    return tl.where(seen[None, :], logits, float("-inf"))


@triton.jit
def add(pointer, change, mask, held):
    """Add ``change`` to values of this program only; those not ``held`` are uninitialised."""
    tl.store(pointer, tl.load(pointer, mask=held, other=0.0) + change, mask=mask)


@triton.jit
def _fold(
    spread, q, slope_q, table, grad_table, first, length, D: tl.constexpr, WINDOW: tl.constexpr, PRECISION: tl.constexpr
):
    """Add ``spread`` (M, T), by distance from ``first`` on, to the table's gradient; return slope_q with its part."""
    d = tl.arange(0, q.shape[1])
    window = _window(table, first, length, D, q.shape[1], WINDOW)  # (T, D)
    slope_q = tl.dot(spread, window, slope_q, input_precision=PRECISION)
    change = tl.dot(tl.trans(spread), q, input_precision=PRECISION)  # (T, D)
    row = first + tl.arange(0, WINDOW)
    mask = ((row >= 0) & (row < 2 * length - 1))[:, None] & (d < D)[None, :]
    tl.debug_barrier()  # the windows of consecutive folds overlap
    add(grad_table + row[:, None] * D + d[None, :], change, mask, mask)
    return slope_q


@triton.jit
def _by_distance(slopes, i, j, dtype: tl.constexpr, SPAN: tl.constexpr, WINDOW: tl.constexpr, PRECISION: tl.constexpr):
    """Return the sums (M, T) of slopes (M, keys) by distance: key ``j``, query ``i`` in column j - i + SPAN - 1."""
    t = tl.arange(0, WINDOW)
    sums = tl.zeros((slopes.shape[0], WINDOW), tl.float32)
    for r in range(SPAN):
        own = tl.where((i == r)[:, None], slopes, 0.0).to(dtype)
        shift = (t[None, :] == j[:, None] - r + (SPAN - 1)).to(dtype)  # one 1 per row
        sums = tl.dot(own, shift, sums, input_precision=PRECISION)
    return sums.to(dtype)


@triton.jit
def fold_columns(
    slopes, q, slope_q, table, grad_table, start, first, W,
    D: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, LINES: tl.constexpr, KEY_COLUMNS: tl.constexpr,
    WINDOW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return slope_q plus the part of ``slopes`` (M, J) through `column_terms`, and add to the table's gradient."""
    i = tl.arange(0, ROWS * COLUMNS) % COLUMNS
    if KEY_COLUMNS < 16:  # Triton 3.6 fails on a gather from so few
        spread = _by_distance(
            slopes, i, tl.arange(0, LINES * KEY_COLUMNS) % KEY_COLUMNS, q.dtype, COLUMNS, WINDOW, PRECISION
        )
    else:
        along = slopes
        if LINES > 1:
            along = tl.sum(tl.reshape(slopes, (ROWS * COLUMNS, LINES, KEY_COLUMNS)), axis=1)
        j = tl.arange(0, WINDOW)[None, :] + i[:, None] - (COLUMNS - 1)  # (M, T)
        inside = (j >= 0) & (j < KEY_COLUMNS)
        spread = tl.where(inside, tl.gather(along, tl.where(inside, j, 0), axis=1), 0.0).to(q.dtype)
    return _fold(spread, q, slope_q, table, grad_table, start - first - (COLUMNS - 1) + W - 1, W, D, WINDOW, PRECISION)


@triton.jit
def fold_lines(
    slopes, q, slope_q, table, grad_table, start, first, H,
    D: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr, WINDOW: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Return slope_q plus the part of ``slopes`` (M, GROUP) through `line_terms`, and add to the table's gradient."""
    if ROWS == 1:
        spread = slopes.to(q.dtype)
    else:
        i = tl.arange(0, ROWS * COLUMNS) // COLUMNS
        spread = _by_distance(slopes, i, tl.arange(0, GROUP), q.dtype, ROWS, WINDOW, PRECISION)
    return _fold(spread, q, slope_q, table, grad_table, start - first - (ROWS - 1) + H - 1, H, D, WINDOW, PRECISION)
