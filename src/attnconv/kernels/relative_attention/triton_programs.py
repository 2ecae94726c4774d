"""The GPU programs of the kernel "triton": relative attention of a map of three axes, forward and backward.

A tile of queries is ROWS x COLUMNS neighbours of one plane, a tile of keys LINES lines of one plane by KEY_COLUMNS.
The position term of an axis depends on the distance alone: the queries of a tile times a window of the table give it
for every distance, and a gather puts it in order of keys. That of the columns is made once for all lines below one
another and is what the product of q and k is added to; that of the lines is made for GROUP lines at a time.
Letters: B batch, N heads, A planes, H lines (rows), W columns of the map; M queries, J keys of one tile, T distances
of one window; D key / E value channels a head.
"""

import triton
import triton.language as tl


@triton.jit
def _window(table, first, length, D: tl.constexpr, BLOCK_D: tl.constexpr, WINDOW: tl.constexpr):
    """The rows ``first`` and on of a table (2 * length - 1, D), zero beyond its ends: (T, D)."""
    row = first + tl.arange(0, WINDOW)
    d = tl.arange(0, BLOCK_D)
    inside = (row >= 0) & (row < 2 * length - 1)
    return tl.load(table + row[:, None] * D + d[None, :], mask=inside[:, None] & (d < D)[None, :], other=0.0)


@triton.jit
def _terms(q, table, first, length, index, D: tl.constexpr, WINDOW: tl.constexpr, PRECISION: tl.constexpr):
    """The position term of one axis: column ``index`` (M, keys) of q times the window that begins at ``first``."""
    window = _window(table, first, length, D, q.shape[1], WINDOW)
    by_distance = tl.dot(q, tl.trans(window), input_precision=PRECISION)  # (M, T)
    return tl.gather(by_distance, index, axis=1)


@triton.jit
def _column_terms(
    q, table, start, first, W,
    TABLES: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, LINES: tl.constexpr,
    KEY_COLUMNS: tl.constexpr, WINDOW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What the columns from ``start`` on add to the logits of queries from column ``first`` on, -inf beyond the map:
    (M, J)."""
    i = tl.arange(0, ROWS * COLUMNS) % COLUMNS
    j = tl.arange(0, LINES * KEY_COLUMNS) % KEY_COLUMNS
    index = j[None, :] - i[:, None] + (COLUMNS - 1)
    if TABLES >= 1:
        terms = _terms(q, table, start - first - (COLUMNS - 1) + W - 1, W, index, D, WINDOW, PRECISION)
    else:
        terms = tl.zeros(index.shape, tl.float32)
    return tl.where((start + j < W)[None, :], terms, float("-inf"))


@triton.jit
def _line_terms(
    q, table, plane, start, first, H,
    TABLES: tl.constexpr, D: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, LINES: tl.constexpr,
    KEY_COLUMNS: tl.constexpr, GROUP: tl.constexpr, WINDOW: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The same of the lines from ``start`` on and of their ``plane`` (M,).

    (M, GROUP) if a tile of keys is a single line, else for the keys of one tile, (M, J), and -inf beyond the map.
    """
    i = tl.arange(0, ROWS * COLUMNS) // COLUMNS
    if LINES == 1:
        j = tl.arange(0, GROUP)
    else:
        j = tl.arange(0, LINES * KEY_COLUMNS) // KEY_COLUMNS
    index = j[None, :] - i[:, None] + (ROWS - 1)
    if TABLES >= 2:
        terms = _terms(q, table, start - first - (ROWS - 1) + H - 1, H, index, D, WINDOW, PRECISION)
        terms += plane[:, None]
    else:
        terms = tl.zeros(index.shape, tl.float32)
    if LINES > 1:
        terms = tl.where((start + j < H)[None, :], terms, float("-inf"))
    return terms


@triton.jit
def _plane_terms(q, table, row, TABLES: tl.constexpr, D: tl.constexpr):
    """q times one row of the table of planes, the same distance for the whole tile: (M,)."""
    if TABLES == 3:
        d = tl.arange(0, q.shape[1])
        distance = tl.load(table + row * D + d, mask=d < D, other=0.0).to(tl.float32)
        terms = tl.sum(q.to(tl.float32) * distance[None, :], axis=1)
    else:
        terms = tl.zeros((q.shape[0],), tl.float32)
    return terms


@triton.jit
def _pick(group, l):
    """Column ``l`` of (M, GROUP)."""
    return tl.sum(tl.where((tl.arange(0, group.shape[1]) == l)[None, :], group, 0.0), axis=1)


@triton.jit
def forward(
    q, k, v, rel_a, rel_h, rel_w, out, lse, factor,
    q_b, q_n, q_a, q_h, q_w, q_d, k_b, k_n, k_a, k_h, k_w, k_d, v_b, v_n, v_a, v_h, v_w, v_d,
    N, A, H, W,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr, CHUNKS: tl.constexpr,
    TABLES: tl.constexpr, SIGN: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LINES: tl.constexpr, KEY_COLUMNS: tl.constexpr, GROUP: tl.constexpr,
    LINE_WINDOW: tl.constexpr, COLUMN_WINDOW: tl.constexpr,
):  # fmt: skip
    """One tile of queries of one head, and one of CHUNKS parts of its output's channels.

    The tables number TABLES, the last axes having them. ``factor`` is positive, SIGN that of the scale. out
    (B, A, H, W, N, E) and lse (B, N, A, H, W) are contiguous, q, k and v have a stride for each axis.
    """
    tiles_w, tiles_h = tl.cdiv(W, COLUMNS), tl.cdiv(H, ROWS)
    tile, chunk = tl.program_id(0) // CHUNKS, tl.program_id(0) % CHUNKS
    w0, h0 = tile % tiles_w * COLUMNS, tile // tiles_w % tiles_h * ROWS
    a = tile // tiles_w // tiles_h % A
    head = tl.cast(tile // tiles_w // tiles_h // A, tl.int64)
    b, n = head // N, head % N

    i_row, i_col = tl.arange(0, ROWS * COLUMNS) // COLUMNS, tl.arange(0, ROWS * COLUMNS) % COLUMNS
    i_inside = (h0 + i_row < H) & (w0 + i_col < W)
    j_line, j_col = tl.arange(0, LINES * KEY_COLUMNS) // KEY_COLUMNS, tl.arange(0, LINES * KEY_COLUMNS) % KEY_COLUMNS
    d = tl.arange(0, BLOCK_D)
    e = chunk * BLOCK_E + tl.arange(0, BLOCK_E)
    q += b * q_b + n * q_n + tl.cast(a, tl.int64) * q_a + tl.cast(h0, tl.int64) * q_h + tl.cast(w0, tl.int64) * q_w
    k += b * k_b + n * k_n
    v += b * v_b + n * v_n
    # Offsets between tiles may pass 2**31, those inside a tile not.
    k_plane, k_line, k_column = tl.cast(k_a, tl.int64), tl.cast(k_h, tl.int64), tl.cast(k_w, tl.int64)
    v_plane, v_line, v_column = tl.cast(v_a, tl.int64), tl.cast(v_h, tl.int64), tl.cast(v_w, tl.int64)
    k_inner = (j_line * k_h + j_col * k_w)[None, :] + (d * k_d)[:, None]  # (D, J)
    v_inner = (j_line * v_h + j_col * v_w)[:, None] + (e * v_d)[None, :]  # (J, E)

    queries = tl.load(
        q + (i_row * q_h + i_col * q_w)[:, None] + (d * q_d)[None, :],
        mask=i_inside[:, None] & (d < D)[None, :],
        other=0.0,
    )  # (M, D)
    if SIGN != 1:
        queries = (queries * SIGN).to(q.dtype.element_ty)
    largest = tl.full((ROWS * COLUMNS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS * COLUMNS,), tl.float32)
    sums = tl.zeros((ROWS * COLUMNS, BLOCK_E), tl.float32)
    for c in range(0, W, KEY_COLUMNS):
        columns = _column_terms(
            queries, rel_w, c, w0, W, TABLES, D, ROWS, COLUMNS, LINES, KEY_COLUMNS, COLUMN_WINDOW, PRECISION
        )  # (M, J)
        for p in range(0, A):
            plane = _plane_terms(queries, rel_a, p - a + A - 1, TABLES, D)  # (M,)
            for g in range(0, H, GROUP):
                if LINES > 1 or TABLES >= 2:
                    group = _line_terms(
                        queries, rel_h, plane, g, h0, H, TABLES, D, ROWS, COLUMNS, LINES, KEY_COLUMNS, GROUP,
                        LINE_WINDOW, PRECISION,
                    )  # fmt: skip
                for l in range(0, LINES if LINES > 1 else tl.minimum(GROUP, H - g), LINES):
                    j_inside = (g + l + j_line < H) & (c + j_col < W)
                    keys = tl.load(
                        k + (p * k_plane + (g + l) * k_line + c * k_column) + k_inner,
                        mask=j_inside[None, :] & (d < D)[:, None],
                        other=0.0,
                    )  # (D, J)
                    if LINES > 1:
                        logits = columns + group
                    elif TABLES >= 2:
                        logits = columns + _pick(group, l)[:, None]
                    else:
                        logits = columns
                    logits = tl.dot(queries, keys, logits, input_precision=PRECISION)  # (M, J)
                    above = tl.maximum(largest, tl.max(logits, axis=1))
                    weights = tl.exp2(logits * factor - (above * factor)[:, None])
                    shrink = tl.exp2((largest - above) * factor)
                    total = total * shrink + tl.sum(weights, axis=1)
                    values = tl.load(
                        v + (p * v_plane + (g + l) * v_line + c * v_column) + v_inner,
                        mask=j_inside[:, None] & (e < E)[None, :],
                        other=0.0,
                    )  # (J, E)
                    sums = tl.dot(
                        weights.to(values.dtype), values, sums * shrink[:, None], input_precision=PRECISION
                    )  # (M, E)
                    largest = above

    place = tl.cast((a * H + h0) * W + w0, tl.int64)
    i = i_row * W + i_col
    tl.store(
        out + ((b * A * H * W + place) * N + n) * E + i[:, None] * N * E + e[None, :],
        (sums / total[:, None]).to(out.dtype.element_ty),
        mask=i_inside[:, None] & (e < E)[None, :],
    )
    if chunk == 0:
        natural = (largest * factor + tl.log2(total)) * 0.6931471805599453
        tl.store(lse + head * A * H * W + place + i, natural, mask=i_inside)
