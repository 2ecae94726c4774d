// Relative attention, forward and backward, for the instruction set of the unit that includes this file.
//
// A whole number at or above a query's largest logit, in log2 units, is subtracted from its logits. If the norms of q and
// k bound it well, there is no search for it. Letters as in problem.h; L positions of the map.
#pragma once
#include "plan.h"
#include "rates.h"

namespace {

constexpr float LOG2_E = 1.442695041f, LN_2 = 0.6931471806f;
constexpr float LOOSEST_BOUND = 64.f;   // log2 units that a bound may lie above the largest logit
constexpr float LARGEST_SHIFT = 1e6f;   // of shifts applied to exponents; larger ones are subtracted
// Weights below 2**-SMALLEST are zero, since processors are slow at subnormal numbers in the backward pass. The forward
// pass must reach as far below a loose bound.
constexpr float SMALLEST_FORWARD = 110.f, SMALLEST_BACKWARD = 80.f;

struct Places {  // of the queries of a tile; the last one repeats past the end
  int64_t axis[3][QUERIES];
  int64_t first;
  int count;
  bool one_row;

  Places(const Map& map, int64_t first_query, int64_t end) : first(first_query), count(int(least(QUERIES, end - first))) {
    const uint32_t row = uint32_t(first) / uint32_t(map.width), plane = row / uint32_t(map.size[1]);
    int64_t a = plane, b = row - plane * map.size[1], x = first - row * map.width;
    one_row = x + count <= map.width;
    for (int i = 0; i < QUERIES; i++) {
      axis[0][i] = a, axis[1][i] = b, axis[2][i] = x;
      if (i + 1 >= count || ++x < map.width) continue;
      x = 0;
      if (++b == map.size[1]) b = 0, a++;
    }
  }
  INLINE bool same(int a) const {
    bool equal = true;
    for (int i = 1; i < QUERIES; i++) equal &= axis[a][i] == axis[a][0];
    return equal;
  }
  INLINE int64_t offset(const View& view, int i) const {
    return axis[0][i] * view.stride[2] + axis[1][i] * view.stride[3] + axis[2][i] * view.stride[4];
  }
  template <class T> INLINE void pointers(const Problem& p, const View& view, int64_t head, T** to) const {
    for (int i = 0; i < QUERIES; i++) to[i] = at_head<T>(p, view, head) + offset(view, i);
  }
};

// Queries of one head as [channel][query], zero past the end.
inline void gather_queries(const Problem& p, const View& view, int64_t head, const Places& places, int64_t channels,
                           float factor, float* to) {
  with_element(p.dtype, [&](auto element) INLINE_LAMBDA {
    using T = decltype(element);
    T* from[QUERIES];
    places.pointers(p, view, head, from);
    const bool adjacent = places.one_row && view.stride[4] == 1;
    gather<T>(from, places.count, QUERIES, adjacent, channels, view.stride[5], factor, to, QUERIES);
  });
}
inline void scatter_queries(const Problem& p, const float* from, float factor, const View& view, int64_t head,
                            const Places& places, int64_t channels) {
  with_element(p.dtype, [&](auto element) INLINE_LAMBDA {
    using T = decltype(element);
    T* to[QUERIES];
    places.pointers(p, view, head, to);
    const bool adjacent = places.one_row && view.stride[4] == 1;
    scatter<T>(from, QUERIES, factor, to, places.count, adjacent, channels, view.stride[5]);
  });
}

// A vector per query as a number per lane, which stands for a head.
INLINE void collect(const Vec* from, float* to) { lane_sums(from, to); }
INLINE void collect(const Vec* from, Vec* to) {
  UNROLL for (int i = 0; i < QUERIES; i++) to[i] = from[i];
}
template <bool NANS> INLINE void collect_maxima(const Vec* from, float* to) { lane_maxima<NANS>(from, to); }
template <bool NANS> INLINE void collect_maxima(const Vec* from, Vec* to) { collect(from, to); }

// N vectors of places j of line[i][j] = q_i . r[j - place of i]; ``window`` is where r of the first j begins for place 0.
template <int N>
INLINE void position_vectors(const float* window, int64_t step, int64_t D, const int64_t* place, bool same, const float* q,
                             float* line, int64_t padded) {
  Vec sum[QUERIES][N] = {};
  for (int64_t d = 0; d < D; d++, window += step) {
    Vec r[N];
    if (same) UNROLL for (int t = 0; t < N; t++) r[t] = load(window - place[0] + t * WIDTH);
    UNROLL for (int i = 0; i < QUERIES; i++) {
      const Vec qi = broadcast(q[d * QUERIES + i]);
      UNROLL for (int t = 0; t < N; t++) sum[i][t] += (same ? r[t] : load(window - place[i] + t * WIDTH)) * qi;
    }
  }
  UNROLL for (int i = 0; i < QUERIES; i++) UNROLL for (int t = 0; t < N; t++) store(line + i * padded + t * WIDTH, sum[i][t]);
}
INLINE void position_line(const Plan<float>& plan, int axis, const float* q, const Places& places, float* line) {
  const int64_t step = plan.table_step[axis], n = plan.map.size[axis], padded = plan.line[axis], D = plan.p.key_dim;
  const bool same = places.same(axis);
  for (int64_t j = 0; j < padded;) {
    const float* const window = plan.table[axis] + n - 1 + j;
    if (padded - j >= 2 * WIDTH)
      position_vectors<2>(window, step, D, places.axis[axis], same, q, line + j, padded), j += 2 * WIDTH;
    else
      position_vectors<1>(window, step, D, places.axis[axis], same, q, line + j, padded), j += WIDTH;
  }
}
template <int N> INLINE void position_block(const Vec* q, const float* table, int64_t step, int64_t D, Vec* line) {
  Vec sum[N] = {};
  for (int64_t d = 0; d < D; d++)
    UNROLL for (int j = 0; j < N; j++) sum[j] += q[d] * table[j * step + d];
  UNROLL for (int j = 0; j < N; j++) line[j] = sum[j];
}
INLINE void position_line(const Plan<Vec>& plan, int axis, const Vec* q, const Places& places, Vec* line) {
  const int64_t n = plan.map.size[axis], D = plan.p.key_dim, step = plan.table_step[axis];
  for (int i = 0; i < QUERIES; i++) {
    const float* window = plan.table[axis] + (n - 1 - places.axis[axis][i]) * step;
    int64_t j = 0;
    for (; j + 7 <= n; j += 7) position_block<7>(q + i * D, window + j * step, step, D, line + i * n + j);
    for (; j < n; j++) position_block<1>(q + i * D, window + j * step, step, D, line + i * n + j);
  }
}

// ``count`` queries of many heads, at ``from``; zeros to fill a tile, in ``spare``, past the end.
template <class S> INLINE S* filled_up(S* from, S* spare, int count, int64_t channels) {
  if (!ACROSS_HEADS<S> || count == QUERIES) return from;
  for (int64_t i = 0; i < QUERIES * channels; i++) spare[i] = i < count * channels ? from[i] : S{};
  return spare;
}

// The position terms of a tile; none past the end, where a non-finite table would give NaN.
template <class S> NOINLINE void position_terms(const Plan<S>& plan, Tile<S>& tile, const Places& places, S* line) {
  const Map& map = plan.key_map;
  const int64_t columns = plan.line[2];
  S* const column = (S*)tile.column;
  if (plan.table[2] && plan.p.table[2].data)
    position_line(plan, 2, tile.q, places, column);
  else
    for (int64_t i = 0; i < QUERIES * columns; i++) column[i] = S{};
  if constexpr (!ACROSS_HEADS<S>)
    for (int i = 0; i < QUERIES; i++)
      for (int64_t x = map.width; x < columns; x++) column[i * columns + x] = -INFINITY;

  const bool one_axis = map.size[0] == 1 && plan.p.table[1].data;  // of rows: its line is their term
  if (one_axis)
    position_line(plan, 1, tile.q, places, tile.row);
  else
    for (int64_t i = 0; i < QUERIES * tile.row_step; i++) tile.row[i] = S{};
  for (int axis = 0; axis < 2; axis++) {
    if (!plan.p.table[axis].data || (one_axis && axis == 1)) continue;
    position_line(plan, axis, tile.q, places, line);
    for (int i = 0; i < QUERIES; i++) {
      S* row = tile.row + i * tile.row_step;
      const S* own = line + i * plan.line[axis];
      for (int64_t a = 0; a < map.size[0]; a++)
        for (int64_t b = 0; b < map.size[1]; b++) *row++ += own[axis == 0 ? a : b];
    }
  }
  if constexpr (!ACROSS_HEADS<S>)
    for (int i = 0; i < QUERIES; i++)
      for (int64_t y = map.rows; y < tile.row_step; y++) tile.row[i * tile.row_step + y] = -INFINITY;
  for (int64_t i = places.count * columns; i < QUERIES * columns; i++) column[i] = S{};
  for (int64_t i = places.count * tile.row_step; i < QUERIES * tile.row_step; i++) tile.row[i] = S{};
}

// Lower the logits of query i by about ``top``; return the amount. ``poison`` is NaN if it is not a number, else 0.
template <class S> INLINE S set_shift(Tile<S>& tile, int i, S top, float smallest, S* poison) {
  *poison = top * 0.f;
  const S number = *poison == 0.f ? top : S{};
  const auto is_huge = (number < 0.f ? -number : number) > LARGEST_SHIFT;
  const S whole = ceil_of(is_huge ? S{} : number);
  tile.huge[i] = is_huge ? number : S{};
  tile.low[i] = whole - smallest, tile.magic[i] = ROUND - whole;
  tile.subtract |= any(is_huge);
  return whole + tile.huge[i];
}

INLINE void query_norms(const float* q, int64_t D, float* norm) {
  Four sum{};
  for (int64_t d = 0; d < D; d++) {
    const Four x = load_four(q + d * QUERIES);
    sum += x * x;
  }
  store_four(norm, sum);
  for (int i = 0; i < QUERIES; i++) norm[i] = root(norm[i]);
}
INLINE void query_norms(const Vec* q, int64_t D, Vec* norm) {
  Vec sum[QUERIES] = {};
  for (int64_t d = 0; d < D; d++)
    UNROLL for (int i = 0; i < QUERIES; i++) sum[i] += q[i * D + d] * q[i * D + d];
  for (int i = 0; i < QUERIES; i++) norm[i] = root(sum[i]);
}

// Return the largest logits of a tile's queries or good bounds, and set ``tile.cut`` if any logit may lie too far below to
// count. ``k_norm``: the largest norm of a key.
template <class S>
NOINLINE void find_tops(const Plan<S>& plan, const Keys& keys, Tile<S>& tile, S k_norm, S* top) {
  const int64_t D = keys.key_dim;
  S norm[QUERIES], row_top[QUERIES], column_top[QUERIES];
  Vec largest[QUERIES], largest_column[QUERIES];
  for (int i = 0; i < QUERIES; i++) {
    const Vec *const row = (const Vec*)(tile.row + i * tile.row_step), *const column = tile.column + i * keys.per_row;
    largest[i] = row[0], largest_column[i] = column[0];
    for (int64_t y = 1; y < tile.row_step / int64_t(sizeof(Vec) / sizeof(S)); y++) largest[i] = larger(largest[i], row[y]);
    for (int64_t x = 1; x < keys.per_row; x++) largest_column[i] = larger(largest_column[i], column[x]);
  }
  collect_maxima<false>(largest, row_top), collect_maxima<false>(largest_column, column_top);
  query_norms(tile.q, D, norm);
  bool exact = false;
  tile.cut = keys.mask || plan.key_map.width % (sizeof(Vec) / sizeof(S));
  decltype(k_norm < k_norm) loose[QUERIES];
  for (int i = 0; i < QUERIES; i++) {
    const S span = norm[i] * k_norm, all = span + norm[i] * plan.table_norm;
    // The row or column with the largest term may have no valid key.
    loose[i] = (keys.mask && plan.tables) | (!(2.f * span <= LOOSEST_BOUND)) | (!(all * 0.f == 0.f));
    tile.cut |= any(!(2.f * all < SMALLEST_FORWARD - 2.f));
    exact |= any(loose[i]);
    top[i] = span + row_top[i] + column_top[i];
  }
  if (!exact) return;
  for (int i = 0; i < QUERIES; i++) largest[i] = broadcast(-INFINITY);
  for_tiles(0, plan.key_map.vectors, [&](auto n, int64_t g) INLINE_LAMBDA {
    max_tile<S, decltype(n)::value>(keys, g, tile, largest);
  });
  S found[QUERIES];
  collect_maxima<true>(largest, found);
  for (int i = 0; i < QUERIES; i++) top[i] = loose[i] ? found[i] : top[i];
}

template <class S> INLINE S largest_norm(const Vec* k, int64_t vectors, int64_t D) {
  Vec largest{};
  for (int64_t g = 0; g < vectors; g++) {
    Vec norm{};
    for (int64_t d = 0; d < D; d++) norm += k[g * D + d] * k[g * D + d];
    largest = larger_or_nan(largest, norm);
  }
  const Vec all[QUERIES] = {largest, largest, largest, largest};
  S found[QUERIES];
  collect_maxima<true>(all, found);
  return root(found[0]);
}

// Multiply the current weights of all tiles by their vectors of v, a few vectors of channels at a time.
template <class S> NOINLINE void forward_wide(Tile<S>* tile, int tiles, int64_t count, const Vec* v, int64_t wide_E) {
  int64_t e = 0;
  auto block = [&](auto n) INLINE_LAMBDA {
    constexpr int N = decltype(n)::value;
    for (int u = 0; u < tiles; u++) wide_sums<N>(tile[u].weights, count, v + e, wide_E, tile[u].sums + QUERIES + e);
    e += N;
  };
  while (e + TILE_VECTORS <= wide_E) block(Count<TILE_VECTORS>{});
  while (e < wide_E) block(Count<1>{});
}

// Write the mask of a group's keys to ``to`` in the layout of Keys; return null if it hides none.
template <class S> NOINLINE const Vec* pack_mask(const Plan<S>& plan, Group group, Vec* to) {
  if (!plan.p.mask.data) return nullptr;
  const Map& map = plan.key_map;
  for_each_run<S, uint8_t>(plan.p, map, group, plan.p.mask, 1, 0, map.rows,
                           [&](uint8_t* const* lane, int64_t lanes, bool adjacent, int64_t count, int64_t stride,
                               int64_t place, int64_t step) INLINE_LAMBDA {
                             gather<uint8_t>(lane, lanes, WIDTH, adjacent, count, stride, 1.f, (float*)to + place, step);
                           });
  int64_t found = 0;
  for (int64_t g = 0; g < map.vectors; g++)
    for (int l = 0; l < WIDTH; l++) found += to[g][l] > 0.f;
  if (found == map.length * (ACROSS_HEADS<S> ? group.count : 1)) return nullptr;
  for (int64_t g = 0; g < map.vectors; g++) to[g] = to[g] > 0.f ? Vec{} : broadcast(-INFINITY);
  return to;
}

template <class S> void forward_part(const Plan<S>& plan, Work<S>& work, int64_t group_index, int64_t part) {
  const Problem& p = plan.p;
  const Map &map = plan.map, &key_map = plan.key_map;
  const int64_t D = p.key_dim, E = p.value_dim;
  const Group group = plan.group(group_index);
  const float factor = float(p.scale) * LOG2_E;
  pack<S>(p, key_map, group, p.k, p.dtype, D, 1.f, work.k, 0, key_map.rows);
  if (plan.wide)
    pack_wide(p, key_map, group.first, work.v);
  else
    pack<S>(p, key_map, group, p.v, p.dtype, E, 1.f, work.v, 0, key_map.rows);
  const int64_t wide_E = ceil_div(E, WIDTH), sums = plan.wide ? wide_E + 1 : E + 1;
  const int64_t end = plan.first_query(part + 1), first_row = plan.first_query(part) / map.width, last_row = end / map.width;
  if constexpr (ACROSS_HEADS<S>) pack<S>(p, map, group, p.q, p.dtype, D, factor, work.q, first_row, last_row);
  const Keys keys{work.k, work.v, pack_mask(plan, group, work.mask), nullptr, nullptr, D, E, key_map.per_row};
  const S k_norm = largest_norm<S>(work.k, key_map.vectors, D);
  for (int64_t begin = plan.first_query(part); begin < end; begin += plan.tiles * QUERIES) {
    const int tiles = int(least(plan.tiles, ceil_div(end - begin, QUERIES)));
    Tile<S> tile[MOST_TILES];
    S base[MOST_TILES][QUERIES], poison[MOST_TILES][QUERIES];
    for (int u = 0; u < tiles; u++) {
      Tile<S>& t = tile[u];
      const Places places(map, begin + u * QUERIES, end);
      S* q = work.q + (ACROSS_HEADS<S> ? places.first : u * QUERIES) * D;
      if constexpr (!ACROSS_HEADS<S>) gather_queries(p, p.q, group.first, places, D, factor, q);
      t.q = filled_up(q, work.spare, places.count, D), t.row_step = plan.row_step, t.row = work.row + u * QUERIES * plan.row_step;
      t.column = work.column + u * QUERIES * key_map.per_row;
      t.sums = work.sums + u * QUERIES * sums;
      t.weights = work.weights + u * QUERIES * VECTORS_IN_TURN;
      memset((void*)t.sums, 0, QUERIES * sums * sizeof(Vec));
      position_terms(plan, t, places, work.line);
      S top[QUERIES];
      find_tops(plan, keys, t, k_norm, top);
      t.subtract = false;
      for (int i = 0; i < QUERIES; i++) base[u][i] = set_shift(t, i, top[i], SMALLEST_FORWARD, &poison[u][i]);
    }
    for (int64_t g = 0; g < key_map.vectors; g += VECTORS_IN_TURN) {
      const int64_t next = least(g + VECTORS_IN_TURN, key_map.vectors);
      for (int u = 0; u < tiles; u++)
        for_tiles(g, next, [&](auto n, int64_t here) INLINE_LAMBDA {
          if (plan.wide)
            weight_tile<S, decltype(n)::value>(keys, here, here - g, tile[u]);
          else
            forward_tile<S, decltype(n)::value>(keys, here, tile[u]);
        });
      if (plan.wide) forward_wide(tile, tiles, next - g, work.v + g * WIDTH * wide_E, wide_E);
    }
    for (int u = 0; u < tiles; u++) {
      const Places places(map, begin + u * QUERIES, end);
      S total[QUERIES], inverse[QUERIES];
      collect(tile[u].sums + (plan.wide ? 0 : E) * QUERIES, total);
      S *const out = work.out + (ACROSS_HEADS<S> ? places.first * E : 0), *const lse = work.lse + (ACROSS_HEADS<S> ? places.first : 0);
      for (int i = 0; i < QUERIES; i++) {
        inverse[i] = 1.f / total[i] + poison[u][i];
        lse[i] = base[u][i] + log2_of(total[i]) + poison[u][i];
      }
      for (int64_t e = 0; e < E; e++) {
        S sum[QUERIES];
        if (plan.wide)
          for (int i = 0; i < QUERIES; i++) sum[i] = ((const S*)(tile[u].sums + QUERIES + i * wide_E))[e];
        else
          collect(tile[u].sums + e * QUERIES, sum);
        UNROLL for (int i = 0; i < QUERIES; i++) out[at<S>(E, i, e)] = sum[i] * inverse[i];
      }
      if constexpr (!ACROSS_HEADS<S>) {
        scatter_queries(p, out, 1.f, p.out, group.first, places, E);
        for (int i = 0; i < places.count; i++)
          at_head<float>(p, p.lse, group.first)[places.offset(p.lse, i)] = lse[i];
      }
    }
  }
  if constexpr (ACROSS_HEADS<S>) {
    unpack<S>(p, map, group, work.out, 1.f, p.out, p.dtype, E, first_row, last_row);
    unpack<S>(p, map, group, work.lse, 1.f, p.lse, FLOAT32, 1, first_row, last_row);
  }
}

// Add the slopes along one axis times the table to grad_q, and times q to the gradient of the table.
// ``along``: [query][place], summed over the other axes.
//
// Windows of neighbouring places overlap: the slopes of M queries are set off from each other in ``shifted``, so that the
// table is read once for all; but the zeros between must not meet NaN or inf.
template <int M, int N>
INLINE void spread_vectors(const float* slopes, int64_t apart, const float* window, int64_t step, int64_t D, const float* q,
                           Vec* grad_q, float* sums) {
  Vec slope[M][N];
  UNROLL for (int m = 0; m < M; m++) UNROLL for (int t = 0; t < N; t++) slope[m][t] = load(slopes + m * apart + t * WIDTH);
  for (int64_t d = 0; d < D; d++, window += step, sums += step, q += QUERIES, grad_q += QUERIES) {
    Vec r[N], sum[N];
    UNROLL for (int t = 0; t < N; t++) r[t] = load(window + t * WIDTH), sum[t] = load(sums + t * WIDTH);
    UNROLL for (int m = 0; m < M; m++) {
      const Vec qm = broadcast(q[m]);
      Vec own = grad_q[m];
      UNROLL for (int t = 0; t < N; t++) own += slope[m][t] * r[t], sum[t] += slope[m][t] * qm;
      grad_q[m] = own;
    }
    UNROLL for (int t = 0; t < N; t++) store(sums + t * WIDTH, sum[t]);
  }
}
template <int M>
INLINE void spread_together(const Plan<float>& plan, int axis, const float* along, int first, const Tile<float>& tile,
                            const Places& places, float* shifted, float* table_sums) {
  const int64_t step = plan.table_step[axis], padded = plan.line[axis], D = plan.p.key_dim, *place = places.axis[axis] + first;
  int64_t last = place[0];
  for (int m = 1; m < M; m++) last = most(last, place[m]);
  const int64_t vectors = padded / WIDTH + (M > 1 && !places.same(axis)), apart = vectors * WIDTH;
  memset(shifted, 0, M * apart * sizeof(float));
  for (int m = 0; m < M; m++)
    memcpy(shifted + m * apart + last - place[m], along + (first + m) * padded, plan.map.size[axis] * sizeof(float));
  const int64_t window = plan.map.size[axis] - 1 - last;
  for_tiles(0, vectors, [&](auto n, int64_t j) INLINE_LAMBDA {
    const int64_t at = window + j * WIDTH;
    spread_vectors<M, decltype(n)::value>(shifted + j * WIDTH, apart, plan.table[axis] + at, step, D, tile.q + first,
                                          tile.grad_q + first, table_sums + at);
  });
}
INLINE void spread(const Plan<float>& plan, int axis, const float* along, const Tile<float>& tile, const Places& places,
                   float* shifted, float* table_sums) {
  if (places.count == QUERIES && (places.same(axis) || (places.one_row && tile.finite)))
    return spread_together<QUERIES>(plan, axis, along, 0, tile, places, shifted, table_sums);
  for (int i = 0; i < places.count; i++) spread_together<1>(plan, axis, along, i, tile, places, shifted, table_sums);
}
template <int N>
INLINE void spread_block(const Vec* along, int64_t n, const float* window, int64_t step, const Vec* q, Vec* grad_q, Vec* sums) {
  Vec sum[N], own[N];
  UNROLL for (int d = 0; d < N; d++) sum[d] = grad_q[d * QUERIES], own[d] = q[d];
  for (int64_t j = 0; j < n; j++) {
    const Vec slope = along[j];
    UNROLL for (int d = 0; d < N; d++) sum[d] += slope * window[j * step + d];
    UNROLL for (int d = 0; d < N; d++) sums[j * step + d] += slope * own[d];
  }
  UNROLL for (int d = 0; d < N; d++) grad_q[d * QUERIES] = sum[d];
}
INLINE void spread(const Plan<Vec>& plan, int axis, const Vec* along, const Tile<Vec>& tile, const Places& places, Vec*,
                   Vec* table_sums) {
  const int64_t n = plan.map.size[axis], D = plan.p.key_dim, step = plan.table_step[axis];
  int64_t d = 0;
  auto block = [&](auto channels) INLINE_LAMBDA {  // all queries for a few channels: their windows share rows
    for (int i = 0; i < places.count; i++) {
      const int64_t window = (n - 1 - places.axis[axis][i]) * step + d;
      spread_block<decltype(channels)::value>(along + i * n, n, plan.table[axis] + window, step, tile.q + i * D + d,
                                              tile.grad_q + d * QUERIES + i, table_sums + window);
    }
    d += decltype(channels)::value;
  };
  while (d + 2 * TILE_VECTORS <= D) block(Count<2 * TILE_VECTORS>{});
  while (d + 4 <= D) block(Count<4>{});
  while (d < D) block(Count<1>{});
}

template <class S>
NOINLINE void spread_slopes(const Plan<S>& plan, Tile<S>& tile, const Places& places, const Work<S>& work, S* table_sums) {
  const Map& map = plan.key_map;
  auto spread_along = [&](int axis, const S* along) {
    spread(plan, axis, along, tile, places, work.shifted, table_sums + plan.table_at[axis]);
  };
  if (plan.p.table[2].data) spread_along(2, (const S*)tile.by_column);
  if (!plan.p.table[0].data && !plan.p.table[1].data) return;
  S* const rows = tile.row;  // the terms are no longer needed
  for (int64_t y = 0; y < map.rows; y++) {
    Vec four[QUERIES];
    S sum[QUERIES];
    for (int i = 0; i < QUERIES; i++) four[i] = tile.by_row[i * tile.row_step + y];
    collect(four, sum);
    for (int i = 0; i < QUERIES; i++) rows[i * tile.row_step + y] = sum[i];
  }
  if (map.size[0] == 1 && !plan.p.table[0].data) return spread_along(1, rows);
  for (int axis = 0; axis < 2; axis++) {
    if (!plan.p.table[axis].data) continue;
    S* const line = work.line;
    for (int64_t i = 0; i < QUERIES * plan.line[axis]; i++) line[i] = S{};
    for (int i = 0; i < QUERIES; i++) {
      const S* row = rows + i * tile.row_step;
      S* along = line + i * plan.line[axis];
      for (int64_t a = 0; a < map.size[0]; a++)
        for (int64_t b = 0; b < map.size[1]; b++) along[axis == 0 ? a : b] += *row++;
    }
    spread_along(axis, line);
  }
}

template <class S>
void backward_part(const Plan<S>& plan, Work<S>& work, int64_t group_index, int64_t part, S* table_sums) {
  const Problem& p = plan.p;
  const Map &map = plan.map, &key_map = plan.key_map;
  const int64_t D = p.key_dim, E = p.value_dim, size = key_map.vectors * (D + E);
  const Group group = plan.group(group_index);
  const int64_t end = plan.first_query(part + 1), first_row = plan.first_query(part) / map.width, last_row = end / map.width;
  const float factor = float(p.scale) * LOG2_E;
  Vec *grad_k = work.grad_k, *grad_v = work.grad_v;
  if (plan.parts > 1) {
    grad_k = plan.partial + (group_index * plan.parts + part) * size;
    grad_v = grad_k + key_map.vectors * D;
  }
  memset((void*)grad_k, 0, key_map.vectors * D * sizeof(Vec));
  memset((void*)grad_v, 0, key_map.vectors * E * sizeof(Vec));
  pack<S>(p, key_map, group, p.k, p.dtype, D, 1.f, work.k, 0, key_map.rows);
  pack<S>(p, key_map, group, p.v, p.dtype, E, 1.f, work.v, 0, key_map.rows);
  if constexpr (ACROSS_HEADS<S>) {
    pack<S>(p, map, group, p.q, p.dtype, D, factor, work.q, first_row, last_row);
    pack<S>(p, map, group, p.grad, p.dtype, E, 1.f, work.grad, first_row, last_row);
    pack<S>(p, map, group, p.out, p.dtype, E, 1.f, work.out, first_row, last_row);
    pack<S>(p, map, group, p.lse, FLOAT32, 1, 1.f, work.lse, first_row, last_row);
  }
  const Keys keys{work.k, work.v, pack_mask(plan, group, work.mask), grad_k, grad_v, D, E, key_map.per_row};
  for (int64_t begin = plan.first_query(part); begin < end; begin += plan.tiles * QUERIES) {
    const int tiles = int(least(plan.tiles, ceil_div(end - begin, QUERIES)));
    Tile<S> tile[MOST_TILES];
    for (int u = 0; u < tiles; u++) {
      Tile<S>& t = tile[u];
      const Places places(map, begin + u * QUERIES, end);
      const int64_t first = ACROSS_HEADS<S> ? places.first : u * QUERIES;
      S *q = work.q + first * D, *grad = work.grad + first * E;
      S *const out = work.out + first * E, *const lse = work.lse + first;
      if constexpr (!ACROSS_HEADS<S>) {
        gather_queries(p, p.q, group.first, places, D, factor, q);
        gather_queries(p, p.grad, group.first, places, E, 1.f, grad);
        gather_queries(p, p.out, group.first, places, E, 1.f, out);
        for (int i = 0; i < QUERIES; i++) lse[i] = at_head<float>(p, p.lse, group.first)[places.offset(p.lse, i)];
      }
      t.q = q = filled_up(q, work.spare, places.count, D);
      t.grad = grad = filled_up(grad, work.spare + QUERIES * D, places.count, E);
      t.row_step = plan.row_step, t.row = work.row + u * QUERIES * plan.row_step;
      t.column = work.column + u * QUERIES * key_map.per_row;
      t.grad_q = work.grad_q_sums + u * QUERIES * D;
      t.weights = plan.wide ? work.weights + u * QUERIES * VECTORS_IN_TURN : nullptr;
      t.slopes = work.slopes + u * QUERIES * VECTORS_IN_TURN;
      t.by_row = work.by_row + u * QUERIES * plan.row_step;
      t.by_column = work.by_column + u * QUERIES * key_map.per_row;
      memset((void*)t.grad_q, 0, QUERIES * D * sizeof(Vec));
      memset((void*)t.by_row, 0, QUERIES * plan.row_step * sizeof(Vec));
      memset((void*)t.by_column, 0, QUERIES * key_map.per_row * sizeof(Vec));
      position_terms(plan, t, places, work.line);
      t.subtract = false, t.cut = true, t.finite = plan.table_norm * 0.f == 0.f;
      for (int i = 0; i < QUERIES; i++) {
        S poison, delta{};
        const S top = i < places.count ? lse[i] : S{}, base = set_shift(t, i, top, SMALLEST_BACKWARD, &poison);
        t.delta[i] = delta;
        if (i >= places.count) continue;
        t.finite &= !any(!(poison == 0.f));
        // The weights come out 2**(lse - base) too large: the gradient of the output makes up for it.
        const S share = exp2_unit(poison == 0.f ? base - top : S{}) + poison;
        for (int64_t e = 0; e < E; e++) {
          const S g = grad[at<S>(E, i, e)] * share;
          grad[at<S>(E, i, e)] = g, delta += g * out[at<S>(E, i, e)];
        }
        t.delta[i] = delta;
      }
    }
    for (int64_t g = 0; g < key_map.vectors; g += VECTORS_IN_TURN) {
      const int64_t next = least(g + VECTORS_IN_TURN, key_map.vectors);
      if constexpr (!ACROSS_HEADS<S>)
        if (plan.wide)
          for_tiles(g, next, [&](auto n, int64_t here) INLINE_LAMBDA {
            wide_slopes<decltype(n)::value>(work.v + here * E, E, here - g, tile, tiles);
          });
      for (int u = 0; u < tiles; u++)
        for_tiles(g, next, [&](auto n, int64_t here) INLINE_LAMBDA {
          backward_tile<S, decltype(n)::value>(keys, here, here - g, tile[u], plan.tables);
        });
      if constexpr (!ACROSS_HEADS<S>)
        if (plan.wide)
          for_tiles(g, next, [&](auto n, int64_t here) INLINE_LAMBDA {
            wide_grad_v<decltype(n)::value>(work.weights + (here - g) * QUERIES, tiles, work.grad, E, grad_v + here * E);
          });
    }
    for (int u = 0; u < tiles; u++) {
      const Places places(map, begin + u * QUERIES, end);
      Tile<S>& t = tile[u];
      if (plan.tables) spread_slopes(plan, t, places, work, table_sums);
      S* const to = work.q + (ACROSS_HEADS<S> ? places.first : u * QUERIES) * D;  // q is no longer needed
      for (int64_t d = 0; d < D; d++) {
        S sum[QUERIES];
        collect(t.grad_q + d * QUERIES, sum);
        UNROLL for (int i = 0; i < QUERIES; i++) to[at<S>(D, i, d)] = sum[i];
      }
      if constexpr (!ACROSS_HEADS<S>) scatter_queries(p, to, float(p.scale), p.grad_q, group.first, places, D);
    }
  }
  if constexpr (ACROSS_HEADS<S>)
    unpack<S>(p, map, group, work.q, float(p.scale), p.grad_q, p.dtype, D, first_row, last_row);
  if (plan.parts > 1) {  // the last part to finish adds all parts, always in the same order
    if (__atomic_add_fetch(plan.done + group_index, 1, __ATOMIC_ACQ_REL) < plan.parts) return;
    grad_k = plan.partial + group_index * plan.parts * size, grad_v = grad_k + key_map.vectors * D;
    for (int64_t other = 1; other < plan.parts; other++)
      for (int64_t i = 0; i < size; i++) grad_k[i] += grad_k[other * size + i];
  }
  unpack<S>(p, key_map, group, grad_k, LN_2, p.grad_k, p.dtype, D, 0, key_map.rows);
  unpack<S>(p, key_map, group, grad_v, 1.f, p.grad_v, p.dtype, E, 0, key_map.rows);
}

template <class S> struct Run {
  const Plan<S>* plan;
  int64_t next;  // first task not yet taken
};

template <class S> void work_off(int64_t begin, int64_t end, void* context) {
  Run<S>& run = *(Run<S>*)context;
  const Plan<S>& plan = *run.plan;
  for (int64_t worker = begin; worker < end; worker++) {
    Arena arena(plan.work + worker * plan.work_bytes);
    Work<S> work(plan, arena);
    int64_t task;
    while ((task = __atomic_fetch_add(&run.next, 1, __ATOMIC_RELAXED)) < plan.tasks) {
      const int64_t first = plan.parts > 1 ? task / plan.parts : plan.groups * task / plan.tasks;
      const int64_t last = plan.parts > 1 ? first + 1 : plan.groups * (task + 1) / plan.tasks;
      float* const task_sums = plan.table_sums + task * plan.sums_per_task;
      S* const table_sums = ACROSS_HEADS<S> ? work.table_sums : (S*)task_sums;
      if (plan.backward) memset((void*)table_sums, 0, plan.sums_per_task * sizeof(S));
      for (int64_t group = first; group < last; group++)
        if (plan.backward)
          backward_part(plan, work, group, task % plan.parts, table_sums);
        else
          forward_part(plan, work, group, task % plan.parts);
      if constexpr (ACROSS_HEADS<S>)
        for (int64_t i = 0; i < plan.sums_per_task && plan.backward; i += 4) lane_sums(table_sums + i, task_sums + i);
    }
  }
}

// Sum the tasks' gradients of the tables.
template <class S> void finish_tables(const Plan<S>& plan) {
  const int64_t D = plan.p.key_dim, count = plan.sums_per_task;
  float* const total = plan.table_sums;
  for (int64_t task = 1; task < plan.tasks; task++)
    for (int64_t i = 0; i < count; i++) total[i] += total[task * count + i];
  for (int a = 0; a < 3; a++) {
    if (!plan.p.table[a].data) continue;
    const float* const sums = total + plan.table_at[a];
    const int64_t of_row = ACROSS_HEADS<S> ? plan.table_step[a] : 1, of_channel = ACROSS_HEADS<S> ? 1 : plan.table_step[a];
    for (int64_t r = 0; r < 2 * plan.map.size[a] - 1; r++)
      for (int64_t d = 0; d < D; d++) plan.p.table[a].grad[r * D + d] = sums[r * of_row + d * of_channel] * LN_2;
  }
}

template <class S> int32_t run(const Problem& p, bool backward, ParallelFor parallel_for) {
  const Plan<S> plan(p, backward);
  Run<S> context{&plan, 0};
  const int32_t error = parallel_for(0, least(p.workers, plan.tasks), 1, work_off<S>, &context);
  if (backward && !error) finish_tables(plan);
  return error;
}

// True if heads rather than positions should fill the lanes: small maps have little work per query besides logits.
bool across_heads(const Problem& p) {
  const Map queries = map_of(p.size, WIDTH), keys = map_of(with_best_axis_last(p).key_size, WIDTH);
  const int64_t heads = p.batch * p.heads, one_head = heads * keys.vectors, many = ceil_div(heads, WIDTH) * keys.length;
  return most(queries.length, keys.length) <= 256 && p.key_dim + p.value_dim <= 160 && many <= one_head;
}

int64_t workspace_bytes(const Problem& p, bool backward) {
  return across_heads(p) ? Plan<Vec>(p, backward).bytes : Plan<float>(p, backward).bytes;
}
int32_t forward(const Problem& p, ParallelFor parallel_for) {
  return across_heads(p) ? run<Vec>(p, false, parallel_for) : run<float>(p, false, parallel_for);
}
int32_t backward(const Problem& p, ParallelFor parallel_for) {
  return across_heads(p) ? run<Vec>(p, true, parallel_for) : run<float>(p, true, parallel_for);
}

}  // namespace

const Unit ATTNCONV_UNIT = {ATTNCONV_NAME, workspace_bytes, forward, backward, rates};
