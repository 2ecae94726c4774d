"""GPU programs of the kernel "triton": relative attention over a map of three axes, forward and backward.

Letters: B batch, N heads, A planes, H lines (rows), W columns of the map; KA, KH, KW those of the key map, which is the
same with tables; M queries, J keys of a tile; D key / E value channels a head; P programs of the backward pass.
"""

import triton
import triton.language as tl

from attnconv.kernels.relative_attention import triton_terms as terms


@triton.jit
def forward(
    q, k, v, rel_a, rel_h, rel_w, mask, out, lse, factor,
    q_b, q_n, q_a, q_h, q_w, q_d, k_b, k_n, k_a, k_h, k_w, k_d, v_b, v_n, v_a, v_h, v_w, v_d,
    N, A, H, W, KA, KH, KW,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr, CHUNKS: tl.constexpr,
    TABLES: tl.constexpr, MASKED: tl.constexpr, SIGN: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LINES: tl.constexpr, KEY_COLUMNS: tl.constexpr, GROUP: tl.constexpr,
    LINE_WINDOW: tl.constexpr, COLUMN_WINDOW: tl.constexpr,
):  # fmt: skip
    """Compute a tile of queries of one head, and one of CHUNKS parts of its output channels.

    The last TABLES axes have tables. ``factor`` is |scale| * log2 e, SIGN the sign of the scale. out
    (B, A, H, W, N, E), lse (B, N, A, H, W) and mask (B, KA, KH, KW), read if MASKED, are contiguous; q, k and v have a
    stride per axis.
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
    q += b * q_b + n * q_n + terms.offset(a, h0, w0, q_a, q_h, q_w)
    k += b * k_b + n * k_n
    v += b * v_b + n * v_n
    mask += b * KA * KH * KW
    j = j_line * KW + j_col
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
    for c in range(0, KW, KEY_COLUMNS):
        columns = terms.column_terms(
            queries, rel_w, c, w0, KW, TABLES, D, ROWS, COLUMNS, LINES, KEY_COLUMNS, COLUMN_WINDOW, PRECISION
        )  # (M, J)
        for p in range(KA):
            plane = terms.plane_terms(queries, rel_a, p - a + KA - 1, TABLES, D)  # (M,)
            for g in range(0, KH, GROUP):
                group = tl.zeros((ROWS * COLUMNS, GROUP), tl.float32)
                if TABLES >= 2:
                    group = terms.line_terms(
                        queries, rel_h, plane, g, h0, KH, D, ROWS, COLUMNS, GROUP, PRECISION
                    )  # (M, GROUP)
                for l in range(0, tl.minimum(GROUP, KH - g), LINES):
                    j_inside = (g + l + j_line < KH) & (c + j_col < KW)
                    keys = tl.load(
                        k + terms.offset(p, g + l, c, k_a, k_h, k_w) + k_inner,
                        mask=j_inside[None, :] & (d < D)[:, None],
                        other=0.0,
                    )  # (D, J)
                    logits = columns
                    if TABLES >= 2:
                        logits += terms.pick_lines(group, l, LINES, KEY_COLUMNS)
                    if LINES > 1:
                        logits = tl.where((g + l + j_line < KH)[None, :], logits, float("-inf"))
                    if MASKED:
                        logits = terms.hide(logits, mask + terms.offset(p, g + l, c, KH * KW, KW, 1) + j, j_inside)
                    logits = tl.dot(queries, keys, logits, input_precision=PRECISION)  # (M, J)
                    above = tl.maximum(largest, tl.max(logits, axis=1))
                    level = above
                    if MASKED:  # there may be no valid key so far
                        level = tl.where(above == float("-inf"), 0.0, above)
                    weights = tl.exp2(logits * factor - (level * factor)[:, None])
                    shrink = tl.exp2((largest - level) * factor)
                    total = total * shrink + tl.sum(weights, axis=1)
                    values = tl.load(
                        v + terms.offset(p, g + l, c, v_a, v_h, v_w) + v_inner,
                        mask=j_inside[:, None] & (e < E)[None, :],
                        other=0.0,
                    )  # (J, E)
                    sums = tl.dot(
                        weights.to(values.dtype), values, sums * shrink[:, None], input_precision=PRECISION
                    )  # (M, E)
                    largest = above

    place = terms.offset(a, h0, w0, H * W, W, 1)
    i = i_row * W + i_col
    tl.store(
        out + ((b * A * H * W + place) * N + n) * E + i[:, None] * N * E + e[None, :],
        (sums / total[:, None]).to(out.dtype.element_ty),
        mask=i_inside[:, None] & (e < E)[None, :],
    )
    if chunk == 0:
        natural = (largest * factor + tl.log2(total)) * 0.6931471805599453  # log 2
        tl.store(lse + head * A * H * W + place + i, natural, mask=i_inside)


@triton.jit
def backward(
    grad, q, k, v, rel_a, rel_h, rel_w, mask, out, lse, grad_q, grad_k, grad_v, grad_a, grad_h, grad_w, scale, factor,
    q_b, q_n, q_a, q_h, q_w, q_d, k_b, k_n, k_a, k_h, k_w, k_d, v_b, v_n, v_a, v_h, v_w, v_d,
    grad_q_b, grad_q_n, grad_q_a, grad_q_h, grad_q_w, grad_q_d, N, A, H, W, KA, KH, KW, SPLITS,
    D: tl.constexpr, E: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr, CHUNKS: tl.constexpr,
    TABLES: tl.constexpr, MASKED: tl.constexpr, SIGN: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LINES: tl.constexpr, KEY_COLUMNS: tl.constexpr, GROUP: tl.constexpr,
    LINE_WINDOW: tl.constexpr, COLUMN_WINDOW: tl.constexpr,
):  # fmt: skip
    """Compute the gradients of one of SPLITS parts of the queries of one head, tile by tile against all keys.

    grad and out (B, A, H, W, N, E) and mask (B, KA, KH, KW), read if MASKED, are contiguous. grad_k (P, KA, KH, KW, D)
    and grad_v (P, KA, KH, KW, E), uninitialised, and grad_a, grad_h, grad_w (P, 2n - 1, D), initially zero, are
    float32, have a part per program, and lack the factor |scale|.
    """
    program = tl.cast(tl.program_id(0), tl.int64)
    head = program // SPLITS
    b, n = head // N, head % N
    tiles_w, tiles_h = tl.cdiv(W, COLUMNS), tl.cdiv(H, ROWS)
    each = tl.cdiv(A * tiles_h * tiles_w, SPLITS)
    first = tl.program_id(0) % SPLITS * each

    i_row, i_col = tl.arange(0, ROWS * COLUMNS) // COLUMNS, tl.arange(0, ROWS * COLUMNS) % COLUMNS
    j_line, j_col = tl.arange(0, LINES * KEY_COLUMNS) // KEY_COLUMNS, tl.arange(0, LINES * KEY_COLUMNS) % KEY_COLUMNS
    d, e = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_E)
    q += b * q_b + n * q_n
    k += b * k_b + n * k_n
    v += b * v_b + n * v_n
    grad_q += b * grad_q_b + n * grad_q_n
    grad += (b * A * H * W * N + n) * E
    out += (b * A * H * W * N + n) * E
    lse += head * A * H * W
    mask += b * KA * KH * KW
    grad_k += program * KA * KH * KW * D
    grad_v += program * KA * KH * KW * E
    grad_a += program * (2 * A - 1) * D
    grad_h += program * (2 * H - 1) * D
    grad_w += program * (2 * W - 1) * D
    i = i_row * W + i_col
    j = j_line * KW + j_col
    k_inner = (j_line * k_h + j_col * k_w)[:, None] + (d * k_d)[None, :]  # (J, D)
    v_inner = (j_line * v_h + j_col * v_w)[:, None] + (e * v_d)[None, :]  # (J, E)

    for tile in range(first, tl.minimum(first + each, A * tiles_h * tiles_w)):
        tl.debug_barrier()  # other threads read grad_k and grad_v than wrote them
        again = tl.full((1, 1), tile, tl.int32) > first  # False for the first tile
        w0, h0, a = tile % tiles_w * COLUMNS, tile // tiles_w % tiles_h * ROWS, tile // tiles_w // tiles_h
        i_inside = (h0 + i_row < H) & (w0 + i_col < W)
        i_mask = i_inside[:, None] & (d < D)[None, :]
        place = terms.offset(a, h0, w0, H * W, W, 1)
        queries = tl.load(
            q + terms.offset(a, h0, w0, q_a, q_h, q_w) + (i_row * q_h + i_col * q_w)[:, None] + (d * q_d)[None, :],
            mask=i_mask,
            other=0.0,
        )  # (M, D)
        if SIGN != 1:
            queries = (queries * SIGN).to(q.dtype.element_ty)
        minus = tl.load(lse + place + i, mask=i_inside, other=float("inf")) * 1.4426950408889634  # log2 e
        upper_at = place * N * E + (i * N * E)[:, None] + e[None, :]
        upper_mask = i_inside[:, None] & (e < E)[None, :]
        upper = tl.load(grad + upper_at, mask=upper_mask, other=0.0)  # (M, E)
        own = tl.load(out + upper_at, mask=upper_mask, other=0.0)
        level = tl.sum(upper.to(tl.float32) * own.to(tl.float32), axis=1)  # grad_i . out_i
        for s in range(1, CHUNKS):
            part_mask = i_inside[:, None] & (s * BLOCK_E + e < E)[None, :]
            part = tl.load(grad + upper_at + s * BLOCK_E, mask=part_mask, other=0.0)
            own = tl.load(out + upper_at + s * BLOCK_E, mask=part_mask, other=0.0)
            level += tl.sum(part.to(tl.float32) * own.to(tl.float32), axis=1)

        slope_q = tl.zeros((ROWS * COLUMNS, BLOCK_D), tl.float32)
        for c in range(0, KW, KEY_COLUMNS):
            columns = terms.column_terms(
                queries, rel_w, c, w0, KW, TABLES, D, ROWS, COLUMNS, LINES, KEY_COLUMNS, COLUMN_WINDOW, PRECISION
            )  # (M, J)
            along_w = tl.zeros((ROWS * COLUMNS, LINES * KEY_COLUMNS), tl.float32)
            for p in range(KA):
                plane = terms.plane_terms(queries, rel_a, p - a + KA - 1, TABLES, D)  # (M,)
                along_a = tl.zeros((ROWS * COLUMNS,), tl.float32)
                for g in range(0, KH, GROUP):
                    group = tl.zeros((ROWS * COLUMNS, GROUP), tl.float32)
                    if TABLES >= 2:
                        group = terms.line_terms(
                            queries, rel_h, plane, g, h0, KH, D, ROWS, COLUMNS, GROUP, PRECISION
                        )  # (M, GROUP)
                    along_h = tl.zeros((ROWS * COLUMNS, GROUP), tl.float32)
                    for l in range(0, tl.minimum(GROUP, KH - g), LINES):
                        j_inside = (g + l + j_line < KH) & (c + j_col < KW)
                        k_mask = j_inside[:, None] & (d < D)[None, :]
                        position = terms.offset(p, g + l, c, KH * KW, KW, 1)
                        at_k = grad_k + position * D + (j * D)[:, None] + d[None, :]
                        earlier_k = tl.load(at_k, mask=k_mask & again, other=0.0)  # (J, D), early for its latency
                        keys = tl.load(
                            k + terms.offset(p, g + l, c, k_a, k_h, k_w) + k_inner, mask=k_mask, other=0.0
                        )  # (J, D)
                        logits = columns
                        if TABLES >= 2:
                            logits += terms.pick_lines(group, l, LINES, KEY_COLUMNS)
                        if LINES > 1:
                            logits = tl.where((g + l + j_line < KH)[None, :], logits, float("-inf"))
                        if MASKED:
                            logits = terms.hide(logits, mask + position + j, j_inside)
                        logits = tl.dot(queries, tl.trans(keys), logits, input_precision=PRECISION)  # (M, J)
                        weights = tl.exp2(logits * factor - minus[:, None])
                        slopes = tl.zeros((ROWS * COLUMNS, LINES * KEY_COLUMNS), tl.float32)
                        for s in range(CHUNKS):
                            v_mask = j_inside[:, None] & (s * BLOCK_E + e < E)[None, :]
                            at_v = grad_v + position * E + s * BLOCK_E + (j * E)[:, None] + e[None, :]
                            earlier_v = tl.load(at_v, mask=v_mask & again, other=0.0)  # (J, E)
                            values = tl.load(
                                v + terms.offset(p, g + l, c, v_a, v_h, v_w) + s * BLOCK_E * v_d + v_inner,
                                mask=v_mask,
                                other=0.0,
                            )  # (J, E)
                            if CHUNKS > 1:
                                part_mask = i_inside[:, None] & (s * BLOCK_E + e < E)[None, :]
                                part = tl.load(grad + upper_at + s * BLOCK_E, mask=part_mask, other=0.0)
                            else:
                                part = upper
                            slopes = tl.dot(part, tl.trans(values), slopes, input_precision=PRECISION)
                            sum_v = tl.dot(
                                tl.trans(weights.to(part.dtype)), part, earlier_v, input_precision=PRECISION
                            )  # (J, E)
                            tl.store(at_v, sum_v, mask=v_mask)
                        slopes = weights * (slopes - tl.expand_dims(level, 1))  # the gradient of the logits
                        rounded = slopes.to(keys.dtype)
                        slope_q = tl.dot(rounded, keys, slope_q, input_precision=PRECISION)
                        sum_k = tl.dot(tl.trans(rounded), queries, earlier_k, input_precision=PRECISION)  # (J, D)
                        tl.store(at_k, sum_k, mask=k_mask)
                        if TABLES >= 1:
                            along_w += slopes
                        if TABLES >= 2:
                            along_h += terms.put_lines(slopes, l, LINES, GROUP)
                    if TABLES >= 2:
                        slope_q = terms.fold_lines(
                            along_h, queries, slope_q, rel_h, grad_h, g, h0, KH, D, ROWS, COLUMNS, GROUP, LINE_WINDOW,
                            PRECISION,
                        )  # fmt: skip
                        along_a += tl.sum(along_h, axis=1)
                if TABLES >= 3:
                    row = (p - a + KA - 1) * D + d
                    distance = tl.load(rel_a + row, mask=d < D, other=0.0).to(tl.float32)
                    slope_q += tl.expand_dims(along_a, 1) * distance[None, :]
                    change = tl.sum(tl.expand_dims(along_a, 1) * queries.to(tl.float32), axis=0)
                    tl.debug_barrier()
                    terms.add(grad_a + row, change, d < D, d < D)
            if TABLES >= 1:
                slope_q = terms.fold_columns(
                    along_w, queries, slope_q, rel_w, grad_w, c, w0, KW, D, ROWS, COLUMNS, LINES, KEY_COLUMNS,
                    COLUMN_WINDOW, PRECISION,
                )  # fmt: skip
        tl.store(
            grad_q
            + terms.offset(a, h0, w0, grad_q_a, grad_q_h, grad_q_w)
            + (i_row * grad_q_h + i_col * grad_q_w)[:, None]
            + (d * grad_q_d)[None, :],
            (slope_q * scale).to(grad_q.dtype.element_ty),
            mask=i_mask,
        )
