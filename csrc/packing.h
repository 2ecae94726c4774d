// Conversion of tensors of any strides and dtype to vectors [vector of the map][channel][lane] in float32, and back.
//
// S defines the lanes of a vector. float: neighbouring positions along the last axis of the map of one head; a value of a
// query is one float for all lanes. Vec: the same position of several heads; a value of a query is a vector.
#pragma once
#include "problem.h"
#include "vectors.h"

namespace {

template <class S> constexpr bool ACROSS_HEADS = sizeof(S) > sizeof(float);

struct Map {
  int64_t size[3], rows, width, length;  // rows: of the last axis, whose length is width
  int64_t per_row, vectors;              // of keys, each row padded to whole vectors
};

// The heads that are computed together: one, or one per lane.
struct Group {
  int64_t first, count;
};

template <class T> T* at_head(const Problem& p, const View& view, int64_t head) {
  return (T*)view.data + head / p.heads * view.stride[0] + head % p.heads * view.stride[1];
}
inline int64_t row_offset(const Map& map, const View& view, int64_t row) {
  return row / map.size[1] * view.stride[2] + row % map.size[1] * view.stride[3];
}

// ``count`` elements, ``stride`` apart, of each of ``lanes`` sources, times ``factor``: element i of source l goes to
// to[i * step + l]. Zeros for sources from ``lanes`` to ``all``. ``adjacent``: each source is one element after the last.
template <class T>
INLINE void gather(const T* const* from, int64_t lanes, int64_t all, bool adjacent, int64_t count, int64_t stride,
                   float factor, float* to, int64_t step) {
  int64_t l = 0;
  for (; l + 4 <= lanes && (adjacent || stride == 1); l += 4) {
    int64_t i = 0;
    if (adjacent)
      for (; i < count; i++) store_four(to + i * step + l, four_of(from[l] + i * stride) * factor);
    for (; i + 4 <= count; i += 4) {
      Four a = four_of(from[l] + i), b = four_of(from[l + 1] + i), c = four_of(from[l + 2] + i),
           d = four_of(from[l + 3] + i);
      transpose(a, b, c, d);
      float* here = to + i * step + l;
      store_four(here, a * factor), store_four(here + step, b * factor);
      store_four(here + 2 * step, c * factor), store_four(here + 3 * step, d * factor);
    }
    for (; i < count; i++)
      for (int j = 0; j < 4; j++) to[i * step + l + j] = to_float(from[l + j][i]) * factor;
  }
  for (; l < lanes; l++)
    for (int64_t i = 0; i < count; i++) to[i * step + l] = to_float(from[l][i * stride]) * factor;
  for (; l < all; l++)
    for (int64_t i = 0; i < count; i++) to[i * step + l] = 0.f;
}

// The reverse: from[i * step + l] to element i of target l.
template <class T>
INLINE void scatter(const float* from, int64_t step, float factor, T* const* to, int64_t lanes, bool adjacent,
                    int64_t count, int64_t stride) {
  int64_t l = 0;
  for (; l + 4 <= lanes && (adjacent || stride == 1); l += 4) {
    int64_t i = 0;
    if (adjacent)
      for (; i < count; i++) put_four(to[l] + i * stride, load_four(from + i * step + l) * factor);
    for (; i + 4 <= count; i += 4) {
      const float* here = from + i * step + l;
      Four a = load_four(here) * factor, b = load_four(here + step) * factor, c = load_four(here + 2 * step) * factor,
           d = load_four(here + 3 * step) * factor;
      transpose(a, b, c, d);
      put_four(to[l] + i, a), put_four(to[l + 1] + i, b), put_four(to[l + 2] + i, c), put_four(to[l + 3] + i, d);
    }
    for (; i < count; i++)
      for (int j = 0; j < 4; j++) put(to[l + j] + i, from[i * step + l + j] * factor);
  }
  for (; l < lanes; l++)
    for (int64_t i = 0; i < count; i++) put(to[l] + i * stride, from[i * step + l] * factor);
}

// Both for WIDTH sources and targets with contiguous elements.
template <class T> INLINE void gather_all(const T* const* from, int64_t count, float factor, float* to, int64_t step) {
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    Vec x[4];
    UNROLL for (int j = 0; j < 4; j++) {
      Four part[WIDTH / 4];
      UNROLL for (int m = 0; m < WIDTH / 4; m++) part[m] = four_of(from[4 * m + j] + i);
      x[j] = joined(part);
    }
    transpose_quarters(x[0], x[1], x[2], x[3]);
    UNROLL for (int j = 0; j < 4; j++) store(to + (i + j) * step, x[j] * factor);
  }
  for (; i < count; i++)
    for (int l = 0; l < WIDTH; l++) to[i * step + l] = to_float(from[l][i]) * factor;
}
template <class T> INLINE void scatter_all(const float* from, int64_t step, float factor, T* const* to, int64_t count) {
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    Vec x[4];
    UNROLL for (int j = 0; j < 4; j++) x[j] = load(from + (i + j) * step) * factor;
    transpose_quarters(x[0], x[1], x[2], x[3]);
    UNROLL for (int j = 0; j < 4; j++) {
      Four part[WIDTH / 4];
      taken_apart(x[j], part);
      UNROLL for (int m = 0; m < WIDTH / 4; m++) put_four(to[4 * m + j] + i, part[m]);
    }
  }
  for (; i < count; i++)
    for (int l = 0; l < WIDTH; l++) put(to[l] + i, from[i * step + l] * factor);
}

// Calls visit(pointers, lanes, adjacent, count, stride, place, step) for each run of elements of rows [begin, end) that
// gather or scatter takes at once; ``place`` is where its vectors begin in [vector][channel][lane], ``step`` their
// distance.
template <class S, class T, class Visit>
INLINE void for_each_run(const Problem& p, const Map& map, Group heads, const View& view, int64_t channels,
                         int64_t begin, int64_t end, Visit visit) {
  T* lane[WIDTH];
  const int64_t along = view.stride[4], across = view.stride[5];
  for (int64_t row = begin; row < end; row++) {
    const int64_t offset = row_offset(map, view, row), place = row * map.per_row * channels * WIDTH;
    if constexpr (!ACROSS_HEADS<S>) {
      T* const start = at_head<T>(p, view, heads.first) + offset;
      for (int64_t x = 0; x < map.width; x += WIDTH) {
        const int64_t lanes = least(WIDTH, map.width - x);
        for (int64_t l = 0; l < lanes; l++) lane[l] = start + (x + l) * along;
        visit(lane, lanes, along == 1, channels, across, place + x * channels, WIDTH);
      }
    } else {
      // Rows that are contiguous in memory form one long row.
      const bool joined = (map.size[1] == 1 || view.stride[3] == map.width * along) &&
                          (map.size[0] == 1 || view.stride[2] == map.size[1] * map.width * along);
      const int64_t length = joined ? (end - begin) * map.width : map.width;
      if (joined) row = end - 1;
      for (int64_t l = 0; l < heads.count; l++) lane[l] = at_head<T>(p, view, heads.first + l) + offset;
      if (across == 1 || along != 1) {
        for (int64_t x = 0; x < length; x++) {
          visit(lane, heads.count, false, channels, across, place + x * channels * WIDTH, WIDTH);
          for (int64_t l = 0; l < heads.count; l++) lane[l] += along;
        }
      } else {
        for (int64_t c = 0; c < channels; c++) {
          visit(lane, heads.count, false, length, along, place + c * WIDTH, channels * WIDTH);
          for (int64_t l = 0; l < heads.count; l++) lane[l] += across;
        }
      }
    }
  }
}

template <class Do> INLINE void with_element(int64_t dtype, Do action) {
  if (dtype == FLOAT32) return action(float{});
  if (dtype == BFLOAT16) return action(Bfloat16{});
  return action(Float16{});
}

// Rows [begin, end) of ``view`` as vectors, times ``factor``; lanes of padding are zero.
template <class S>
NOINLINE void pack(const Problem& p, const Map& map, Group heads, const View& view, int64_t dtype, int64_t channels,
                   float factor, Vec* to, int64_t begin, int64_t end) {
  with_element(dtype, [&](auto element) INLINE_LAMBDA {
    using T = decltype(element);
    for_each_run<S, T>(p, map, heads, view, channels, begin, end,
                       [&](T* const* lane, int64_t lanes, bool adjacent, int64_t count, int64_t stride, int64_t place,
                           int64_t step) INLINE_LAMBDA {
                         if (lanes == WIDTH && !adjacent && stride == 1)
                           gather_all<T>(lane, count, factor, (float*)to + place, step);
                         else
                           gather<T>(lane, lanes, WIDTH, adjacent, count, stride, factor, (float*)to + place, step);
                       });
  });
}

// v of one head as [position of packed keys][channels in vectors], for wide values; zeros in all padding.
inline void pack_wide(const Problem& p, const Map& map, int64_t head, Vec* to) {
  const int64_t E = p.value_dim, padded = ceil_div(E, WIDTH) * WIDTH;
  memset((void*)to, 0, map.vectors * WIDTH * padded * sizeof(float));
  with_element(p.dtype, [&](auto element) INLINE_LAMBDA {
    using T = decltype(element);
    for (int64_t row = 0; row < map.rows; row++)
      for (int64_t x = 0; x < map.width; x++) {
        const T* from = at_head<T>(p, p.v, head) + row_offset(map, p.v, row) + x * p.v.stride[4];
        float* here = (float*)to + (row * map.per_row * WIDTH + x) * padded;
        for (int64_t e = 0; e < E; e++) here[e] = to_float(from[e * p.v.stride[5]]);
      }
  });
}

// Vectors of rows [begin, end), times ``factor``, to ``view``.
template <class S>
NOINLINE void unpack(const Problem& p, const Map& map, Group heads, const Vec* from, float factor, const View& view,
                     int64_t dtype, int64_t channels, int64_t begin, int64_t end) {
  with_element(dtype, [&](auto element) INLINE_LAMBDA {
    using T = decltype(element);
    for_each_run<S, T>(p, map, heads, view, channels, begin, end,
                       [&](T* const* lane, int64_t lanes, bool adjacent, int64_t count, int64_t stride, int64_t place,
                           int64_t step) INLINE_LAMBDA {
                         if (lanes == WIDTH && !adjacent && stride == 1)
                           scatter_all<T>((const float*)from + place, step, factor, lane, count);
                         else
                           scatter<T>((const float*)from + place, step, factor, lane, lanes, adjacent, count, stride);
                       });
  });
}

}  // namespace
