// The inner loops: QUERIES queries against N vectors of keys, with logits in registers.
//
// Logits are in log2 units: q includes the factor log2 e. Letters as in problem.h; g counts vectors of keys.
#pragma once
#include "packing.h"

namespace {

constexpr int QUERIES = 4;
constexpr int TILE_VECTORS = ATTNCONV_TILE_VECTORS;
constexpr int VECTORS_IN_TURN = 2 * TILE_VECTORS;  // of keys that all current tiles process before the next ones

// Queries of a tile are [channel][query] floats, or positions of packed heads.
template <class S> INLINE int64_t at(int64_t channels, int query, int64_t c) {
  return ACROSS_HEADS<S> ? query * channels + c : c * QUERIES + query;
}

struct Keys {  // packed: [vector][channel][lane]
  const Vec *k, *v;
  const Vec* mask;  // [vector]: 0, or -inf for keys that no query may look at; null for none
  Vec *grad_k, *grad_v;
  int64_t key_dim, value_dim, per_row;
};

template <class S> struct Tile {
  const S* q;
  S* row;       // [query][row_step]: the term of each row of the map
  Vec* column;  // [query][vector of a row]: of each place in a row; -inf in the padding
  int64_t row_step;
  S low[QUERIES], magic[QUERIES];  // of exp2_below
  S huge[QUERIES];                 // subtracted before, where `subtract`
  bool subtract;
  bool cut;     // if logits may lie below `low`
  bool finite;  // if all logits and tables are
  Vec* sums;     // [value channel, and one more][query]: of weights times v, and of weights
  Vec* weights;  // [vector in turn][query], where values are wide; then sums are of weights alone
  Vec* slopes;   // the same of grad . v - delta
  // Of the backward:
  const S* grad;      // that of the output
  S delta[QUERIES];   // grad . out
  Vec* grad_q;        // [key channel][query]
  Vec *by_row, *by_column;  // sums of the slopes, laid out as row and column
};

template <int N> struct Count {
  static constexpr int value = N;
};
// Calls body(Count<N>, g) so that all vectors of [begin, end) are covered, the last few in tiles of similar width.
template <class Body> INLINE void for_tiles(int64_t begin, int64_t end, Body body) {
  int64_t g = begin;
  constexpr int N = TILE_VECTORS;
  for (; end - g >= N && (N < 3 || end - g != N + 1); g += N) body(Count<N>{}, g);
  while (g < end) {
    const int64_t left = end - g;
    if (N > 3 && (left == 3 || left > 4))
      body(Count<3>{}, g), g += 3;
    else if (left >= 2)
      body(Count<2>{}, g), g += 2;
    else
      body(Count<1>{}, g), g += 1;
  }
}

struct Cell {  // of the first vector of a tile
  int64_t row, column;
  INLINE Cell(int64_t g, int64_t per_row) : row(uint32_t(g) / uint32_t(per_row)), column(g - row * per_row) {}
  INLINE void next(int64_t per_row) {
    if (++column == per_row) column = 0, row++;
  }
};

template <class S, int N>
INLINE void logits(Vec (&x)[QUERIES][N], const Keys& keys, int64_t g, const Tile<S>& tile) {
  Cell cell(g, keys.per_row);
  UNROLL for (int t = 0; t < N; t++) {
    UNROLL for (int i = 0; i < QUERIES; i++) x[i][t] =
        tile.column[i * keys.per_row + cell.column] + tile.row[i * tile.row_step + cell.row];
    cell.next(keys.per_row);
  }
  if (keys.mask)
    UNROLL for (int t = 0; t < N; t++) UNROLL for (int i = 0; i < QUERIES; i++) x[i][t] += keys.mask[g + t];
  const int64_t dim = keys.key_dim;
  const Vec* k = keys.k + g * dim;
  const S* q = tile.q;
  for (int64_t d = 0; d < dim; d++) {
    Vec here[N];
    UNROLL for (int t = 0; t < N; t++) here[t] = k[t * dim + d];
    UNROLL for (int i = 0; i < QUERIES; i++) {
      const Vec qi = broadcast(q[at<S>(dim, i, d)]);
      UNROLL for (int t = 0; t < N; t++) x[i][t] += here[t] * qi;
    }
  }
}

template <class S, int N> INLINE void weights(Vec (&x)[QUERIES][N], const Keys& keys, int64_t g, const Tile<S>& tile) {
  logits(x, keys, g, tile);
  if (__builtin_expect(tile.subtract, 0))
    UNROLL for (int i = 0; i < QUERIES; i++) UNROLL for (int t = 0; t < N; t++) x[i][t] -= tile.huge[i];
  if (tile.cut)
    UNROLL for (int i = 0; i < QUERIES; i++) exp2_below<true>(x[i], tile.low[i], tile.magic[i]);
  else
    UNROLL for (int i = 0; i < QUERIES; i++) exp2_below<false>(x[i], tile.low[i], tile.magic[i]);
}

template <class S, int N> NOINLINE void max_tile(const Keys& keys, int64_t g, const Tile<S>& tile, Vec* largest) {
  Vec x[QUERIES][N];
  logits(x, keys, g, tile);
  UNROLL for (int i = 0; i < QUERIES; i++)
    UNROLL for (int t = 0; t < N; t++) largest[i] = larger_or_nan(largest[i], x[i][t]);
}

template <class S, int N> NOINLINE void forward_tile(const Keys& keys, int64_t g, const Tile<S>& tile) {
  Vec p[QUERIES][N];
  weights(p, keys, g, tile);
  const int64_t dim = keys.value_dim;
  const Vec* v = keys.v + g * dim;
  Vec* sums = tile.sums;
  for (int64_t e = 0; e < dim; e++, sums += QUERIES) {
    Vec here[N];
    UNROLL for (int t = 0; t < N; t++) here[t] = v[t * dim + e];
    UNROLL for (int i = 0; i < QUERIES; i++) {
      Vec sum = sums[i];
      UNROLL for (int t = 0; t < N; t++) sum += p[i][t] * here[t];
      sums[i] = sum;
    }
  }
  UNROLL for (int i = 0; i < QUERIES; i++) {
    Vec sum = p[i][0];
    UNROLL for (int t = 1; t < N; t++) sum += p[i][t];
    sums[i] += sum;
  }
}

// The weights only, for wide values.
template <class S, int N>
NOINLINE void weight_tile(const Keys& keys, int64_t g, int64_t in_turn, const Tile<S>& tile) {
  Vec p[QUERIES][N];
  weights(p, keys, g, tile);
  UNROLL for (int i = 0; i < QUERIES; i++) {
    Vec sum = tile.sums[i];
    UNROLL for (int t = 0; t < N; t++) {
      sum += p[i][t];
      tile.weights[(in_turn + t) * QUERIES + i] = p[i][t];
    }
    tile.sums[i] = sum;
  }
}

// sums[query][E in vectors] += weights times v, of one tile and ``count`` vectors of keys: lanes are value channels, of
// which N vectors are summed at once. v: [key][E in vectors].
template <int N>
INLINE void wide_sums(const Vec* tile_weights, int64_t count, const Vec* v, int64_t step, Vec* sums) {
  Vec sum[QUERIES][N];
  UNROLL for (int i = 0; i < QUERIES; i++) UNROLL for (int t = 0; t < N; t++) sum[i][t] = sums[i * step + t];
  for (int64_t g = 0; g < count; g++) {
    const float* p = (const float*)(tile_weights + g * QUERIES);
    for (int64_t lane = 0; lane < WIDTH; lane++, v += step) {
      Vec here[N];
      UNROLL for (int t = 0; t < N; t++) here[t] = v[t];
      UNROLL for (int i = 0; i < QUERIES; i++) {
        const Vec weight = broadcast(p[i * WIDTH + lane]);
        UNROLL for (int t = 0; t < N; t++) sum[i][t] += here[t] * weight;
      }
    }
  }
  UNROLL for (int i = 0; i < QUERIES; i++) UNROLL for (int t = 0; t < N; t++) sums[i * step + t] = sum[i][t];
}

// grad_v[vector][E] += weights times the gradient of the output, of ``tiles`` tiles and ``count`` vectors of keys.
// ``weights``: [tile][vector in turn][query]; ``grad``: [tile][E][query].
template <int N>
INLINE void wide_grad_v(const Vec* weights, int64_t tiles, const float* grad, int64_t E, Vec* grad_v) {
  constexpr int M = 4;  // value channels at once
  int64_t e = 0;
  auto block = [&](auto m) INLINE_LAMBDA {
    constexpr int CHANNELS = decltype(m)::value;
    Vec sum[CHANNELS][N];
    UNROLL for (int c = 0; c < CHANNELS; c++) UNROLL for (int t = 0; t < N; t++) sum[c][t] = grad_v[t * E + e + c];
    for (int64_t u = 0; u < tiles; u++)
      for (int i = 0; i < QUERIES; i++) {
        Vec p[N];
        UNROLL for (int t = 0; t < N; t++) p[t] = weights[(u * VECTORS_IN_TURN + t) * QUERIES + i];
        UNROLL for (int c = 0; c < CHANNELS; c++) {
          const Vec g = broadcast(grad[(u * E + e + c) * QUERIES + i]);
          UNROLL for (int t = 0; t < N; t++) sum[c][t] += p[t] * g;
        }
      }
    UNROLL for (int c = 0; c < CHANNELS; c++) UNROLL for (int t = 0; t < N; t++) grad_v[t * E + e + c] = sum[c][t];
    e += CHANNELS;
  };
  while (e + M <= E) block(Count<M>{});
  while (e < E) block(Count<1>{});
}

// grad . v - delta of all tiles, for wide values, a few channels of v at a time.
template <int N, class S> INLINE void wide_slopes(const Vec* v, int64_t E, int64_t in_turn, Tile<S>* tile, int tiles) {
  constexpr int64_t CHANNELS = 64;  // N vectors of so many channels fit the first cache
  for (int64_t first = 0; first < E; first += CHANNELS)
    for (int u = 0; u < tiles; u++) {
      Vec slope[QUERIES][N];
      UNROLL for (int i = 0; i < QUERIES; i++) UNROLL for (int t = 0; t < N; t++) slope[i][t] =
          first ? tile[u].slopes[(in_turn + t) * QUERIES + i] : broadcast(-tile[u].delta[i]);
      for (int64_t e = first; e < least(first + CHANNELS, E); e++) {
        Vec here[N];
        UNROLL for (int t = 0; t < N; t++) here[t] = v[t * E + e];
        UNROLL for (int i = 0; i < QUERIES; i++) {
          const Vec gi = broadcast(tile[u].grad[at<S>(E, i, e)]);
          UNROLL for (int t = 0; t < N; t++) slope[i][t] += here[t] * gi;
        }
      }
      UNROLL for (int i = 0; i < QUERIES; i++)
        UNROLL for (int t = 0; t < N; t++) tile[u].slopes[(in_turn + t) * QUERIES + i] = slope[i][t];
    }
}

template <class S, int N> NOINLINE void backward_tile(const Keys& keys, int64_t g, int64_t in_turn, const Tile<S>& tile, bool tables) {
  Vec p[QUERIES][N], slope[QUERIES][N];
  weights(p, keys, g, tile);
  const int64_t values = keys.value_dim, dim = keys.key_dim;
  const Vec* v = keys.v + g * values;
  Vec* grad_v = keys.grad_v + g * values;
  const S* grad = tile.grad;
  if (tile.weights)
    UNROLL for (int i = 0; i < QUERIES; i++)
      UNROLL for (int t = 0; t < N; t++) tile.weights[(in_turn + t) * QUERIES + i] = p[i][t];
  for (int64_t e = 0; e < values && !tile.weights; e++) {
    Vec sum[N];
    UNROLL for (int t = 0; t < N; t++) sum[t] = grad_v[t * values + e];
    UNROLL for (int i = 0; i < QUERIES; i++) {
      const Vec gi = broadcast(grad[at<S>(values, i, e)]);
      UNROLL for (int t = 0; t < N; t++) sum[t] += p[i][t] * gi;
    }
    UNROLL for (int t = 0; t < N; t++) grad_v[t * values + e] = sum[t];
  }
  UNROLL for (int i = 0; i < QUERIES; i++) UNROLL for (int t = 0; t < N; t++) slope[i][t] =
      tile.weights ? tile.slopes[(in_turn + t) * QUERIES + i] : broadcast(-tile.delta[i]);
  for (int64_t e = 0; e < values && !tile.weights; e++) {
    Vec here[N];
    UNROLL for (int t = 0; t < N; t++) here[t] = v[t * values + e];
    UNROLL for (int i = 0; i < QUERIES; i++) {
      const Vec gi = broadcast(grad[at<S>(values, i, e)]);
      UNROLL for (int t = 0; t < N; t++) slope[i][t] += here[t] * gi;
    }
  }
  UNROLL for (int i = 0; i < QUERIES; i++) UNROLL for (int t = 0; t < N; t++) slope[i][t] *= p[i][t];
  if (tables) {
    const int64_t per_row = keys.per_row, row_step = tile.row_step;
    Cell cell(g, per_row);
    Vec of_row[QUERIES] = {}, *const by_row = tile.by_row, *const by_column = tile.by_column;
    UNROLL for (int t = 0; t < N; t++) {
      UNROLL for (int i = 0; i < QUERIES; i++) {
        by_column[i * per_row + cell.column] += slope[i][t];
        of_row[i] += slope[i][t];
      }
      if (t == N - 1 || cell.column + 1 == per_row)
        UNROLL for (int i = 0; i < QUERIES; i++) {
          by_row[i * row_step + cell.row] += of_row[i];
          of_row[i] = Vec{};
        }
      cell.next(per_row);
    }
  }
  const Vec* k = keys.k + g * dim;
  Vec *grad_k = keys.grad_k + g * dim, *grad_q = tile.grad_q;
  const S* q = tile.q;
  for (int64_t d = 0; d < dim; d++, grad_q += QUERIES) {
    Vec sum[N], here[N];
    UNROLL for (int t = 0; t < N; t++) sum[t] = grad_k[t * dim + d], here[t] = k[t * dim + d];
    UNROLL for (int i = 0; i < QUERIES; i++) {
      const Vec qi = broadcast(q[at<S>(dim, i, d)]);
      Vec own = grad_q[i];
      UNROLL for (int t = 0; t < N; t++) {
        sum[t] += slope[i][t] * qi;
        own += slope[i][t] * here[t];
      }
      grad_q[i] = own;
    }
    UNROLL for (int t = 0; t < N; t++) grad_k[t * dim + d] = sum[t];
  }
}

}  // namespace
