// The plan of one call: order of the axes, groups of heads, tasks, and memory layout.
//
// Sums, and so results, depend only on the problem, never on the number of threads.
// Letters as in problem.h; L positions of the map.
#pragma once
#include "tiles.h"

namespace {

// Tiles of queries per few vectors of keys; with wide values the same in both passes.
constexpr int64_t FORWARD_TILES = 4, BACKWARD_TILES = 2, WIDE_TILES = 8;
constexpr int64_t MOST_TILES = most(WIDE_TILES, most(FORWARD_TILES, BACKWARD_TILES));
constexpr int64_t WIDE = 48;  // value channels from which weights are stored and summed separately
constexpr int64_t MOST_TASKS = 128;                       // each has its own sums for the gradients of tables
constexpr int64_t FEWEST_TASKS = 16;                      // with fewer, the queries of a group are split into parts
constexpr int64_t FORWARD_PART = 64;                      // fewest queries of a part, which packs all keys again
template <class S> constexpr int64_t BACKWARD_PART = ACROSS_HEADS<S> ? 96 : 64;

class Arena {  // allocates from one block of memory; without a block it counts bytes
 public:
  explicit Arena(char* start) : start_(start) {}
  template <class X> X* take(int64_t count) {
    const int64_t at = used_;
    used_ += (count * int64_t(sizeof(X)) + 63) / 64 * 64;
    return start_ ? (X*)(start_ + at) : nullptr;
  }
  int64_t used() const { return used_; }

 private:
  char* start_;
  int64_t used_ = 0;
};

inline Map map_of(const int64_t* size, int64_t lanes) {
  Map map{{size[0], size[1], size[2]}, size[0] * size[1], size[2], size[0] * size[1] * size[2], 0, 0};
  map.per_row = ceil_div(map.width, lanes), map.vectors = map.rows * map.per_row;
  return map;
}

// Return the problem with the axis last whose rows need the least padding; lanes lie along it.
inline Problem with_best_axis_last(Problem p) {
  int best = 2;
  for (int axis = 1; axis >= 0; axis--) {
    const int64_t n = p.key_size[axis], m = p.key_size[best];
    if (n * ceil_div(m, WIDTH) > m * ceil_div(n, WIDTH)) best = axis;
  }
  if (best == 2) return p;
  auto swap = [&](auto& a, auto& b) {
    auto c = a;
    a = b, b = c;
  };
  swap(p.size[best], p.size[2]), swap(p.key_size[best], p.key_size[2]), swap(p.table[best], p.table[2]);
  View* const views[] = {&p.q, &p.k, &p.v, &p.mask, &p.out, &p.lse, &p.grad, &p.grad_q, &p.grad_k, &p.grad_v};
  for (View* view : views) swap(view->stride[2 + best], view->stride[4]);
  return p;
}

template <class S> struct Plan {
  Problem p;
  Map map, key_map;
  bool backward, tables, wide;
  int64_t tiles;
  int64_t heads, groups, parts, tasks;
  int64_t line[3];   // numbers of one axis for a query, padded
  int64_t row_step;  // and of all rows
  // Shared by all workers:
  float* table[3];       // of one head: [d][distance], else [distance][d]
  int64_t table_step[3];  // from d to d + 1, or from a distance to the next
  float table_norm;      // sum over the axes of the largest norm of a row; NaN or inf if it is not finite
  float* table_sums;     // [task]: gradients of the tables, laid out as they are
  int64_t table_at[3], sums_per_task;
  Vec* partial;  // [group][part]: gradients of k and v where a group has several parts
  int64_t* done;  // [group]: parts that have ended
  char* work;     // [worker]
  int64_t work_bytes, bytes;

  Plan(const Problem& problem, bool backward);
  void prepare_tables();
  Group group(int64_t g) const {
    constexpr int64_t LANES = ACROSS_HEADS<S> ? WIDTH : 1;
    return {g * LANES, least(LANES, heads - g * LANES)};
  }
  int64_t first_query(int64_t part) const {  // whole rows of many heads, whole tiles of one
    if (ACROSS_HEADS<S>) return map.rows * part / parts * map.width;
    return part == parts ? map.length : ceil_div(map.length, QUERIES) * part / parts * QUERIES;
  }
};

// The memory of one thread.
template <class S> struct Work {
  Vec *k = nullptr, *v = nullptr, *mask = nullptr, *grad_k = nullptr, *grad_v = nullptr;
  // Of one head: of the tiles at hand. Of many: of all positions, and a few more that tiles at the end write.
  S *q = nullptr, *grad = nullptr, *out = nullptr, *lse = nullptr;
  S* table_sums = nullptr;  // of the heads of each lane
  S *row = nullptr, *line = nullptr, *shifted = nullptr, *spare = nullptr;
  Vec *weights = nullptr, *slopes = nullptr;  // [tile][vector in turn][query], of wide values
  Vec *column = nullptr, *sums = nullptr, *by_row = nullptr, *by_column = nullptr, *grad_q_sums = nullptr;

  Work(const Plan<S>& plan, Arena& arena) {
    const int64_t D = plan.p.key_dim, E = plan.p.value_dim, V = plan.key_map.vectors;
    const int64_t tiles = plan.tiles, wide_E = ceil_div(E, WIDTH);
    const int64_t queries = ACROSS_HEADS<S> ? plan.map.length + QUERIES : tiles * QUERIES;
    k = arena.take<Vec>(V * D);
    v = arena.take<Vec>(plan.wide && !plan.backward ? V * WIDTH * wide_E : V * E);
    mask = arena.take<Vec>(plan.p.mask.data ? V : 0);
    weights = arena.take<Vec>(plan.wide ? tiles * QUERIES * VECTORS_IN_TURN : 0);
    slopes = arena.take<Vec>(plan.wide && plan.backward ? tiles * QUERIES * VECTORS_IN_TURN : 0);
    q = arena.take<S>(queries * D), out = arena.take<S>(queries * E), lse = arena.take<S>(queries);
    row = arena.take<S>(tiles * QUERIES * plan.row_step), column = arena.take<Vec>(tiles * QUERIES * plan.key_map.per_row);
    const int64_t longest = most(plan.line[0], most(plan.line[1], plan.line[2]));
    line = arena.take<S>(QUERIES * longest), shifted = arena.take<S>(ACROSS_HEADS<S> ? 0 : QUERIES * (longest + WIDTH));
    spare = arena.take<S>(ACROSS_HEADS<S> ? QUERIES * (D + E) : 0);
    if (!plan.backward) {
      sums = arena.take<Vec>(tiles * QUERIES * (plan.wide ? wide_E + 1 : E + 1));
      return;
    }
    const int64_t own = plan.parts == 1;
    grad_k = arena.take<Vec>(own * V * D), grad_v = arena.take<Vec>(own * V * E);
    grad = arena.take<S>(queries * E), table_sums = arena.take<S>(ACROSS_HEADS<S> ? plan.sums_per_task : 0);
    by_row = arena.take<Vec>(tiles * QUERIES * plan.row_step);
    by_column = arena.take<Vec>(tiles * QUERIES * plan.key_map.per_row);
    grad_q_sums = arena.take<Vec>(tiles * QUERIES * D);
  }
};

template <class S>
Plan<S>::Plan(const Problem& problem, bool is_backward)
    : p(ACROSS_HEADS<S> ? problem : with_best_axis_last(problem)), map(map_of(p.size, ACROSS_HEADS<S> ? 1 : WIDTH)),
      key_map(map_of(p.key_size, ACROSS_HEADS<S> ? 1 : WIDTH)) {
  backward = is_backward;
  heads = p.batch * p.heads;
  groups = ceil_div(heads, ACROSS_HEADS<S> ? WIDTH : 1);
  // The output of a query does not depend on the parts; the sums of the backward pass do.
  const int64_t part = backward ? BACKWARD_PART<S> : FORWARD_PART;
  const int64_t most_parts = least(ACROSS_HEADS<S> ? map.rows : map.length, most(1, map.length / part));
  parts = backward ? least(ceil_div(FEWEST_TASKS, groups), most_parts) : 1;
  if (!backward)
    while (groups * parts < 4 * p.workers && groups * parts % p.workers && parts < most_parts) parts++;
  tasks = parts > 1 ? groups * parts : least(groups, MOST_TASKS);
  wide = !ACROSS_HEADS<S> && p.value_dim >= WIDE;
  tiles = ACROSS_HEADS<S> ? 1 : wide ? WIDE_TILES : backward ? BACKWARD_TILES : FORWARD_TILES;
  tables = p.table[0].data || p.table[1].data || p.table[2].data;
  constexpr int64_t PAD = ACROSS_HEADS<S> ? 1 : WIDTH;
  for (int a = 0; a < 3; a++) line[a] = ceil_div(key_map.size[a], PAD) * PAD;
  row_step = ceil_div(key_map.rows, PAD) * PAD;

  Arena arena((char*)p.workspace ? (char*)(((uintptr_t)p.workspace + 63) / 64 * 64) : nullptr);
  sums_per_task = 0;
  for (int a = 0; a < 3; a++) {
    const int64_t distances = 2 * map.size[a] - 1, used = p.table[a].data != nullptr;
    // Of many heads: odd, since alternate loads and stores 4096 bytes apart are slow. Of one: room for a last window.
    table_step[a] = ACROSS_HEADS<S> ? p.key_dim | 1 : distances + 2 * WIDTH;
    const int64_t floats = used * (ACROSS_HEADS<S> ? distances : p.key_dim) * table_step[a];
    table[a] = arena.take<float>(floats);
    table_at[a] = sums_per_task;
    sums_per_task += ceil_div(floats, 4) * 4;
  }
  table_sums = arena.take<float>(backward ? tasks * sums_per_task : 0);
  const bool cut = backward && parts > 1;
  partial = arena.take<Vec>(cut ? groups * parts * key_map.vectors * (p.key_dim + p.value_dim) : 0);
  done = arena.take<int64_t>(cut ? groups : 0);
  Arena one(nullptr);
  Work<S>(*this, one);
  work_bytes = one.used();
  work = arena.take<char>(work_bytes * least(p.workers, tasks));
  bytes = arena.used() + 64;
  if (p.workspace) prepare_tables();
  if (p.workspace && cut) memset(done, 0, groups * sizeof *done);
}

// Copy the tables to float32 and find table_norm.
template <class S> void Plan<S>::prepare_tables() {
  table_norm = 0;
  for (int a = 0; a < 3; a++) {
    if (!p.table[a].data) continue;
    const int64_t distances = 2 * map.size[a] - 1, step = table_step[a], D = p.key_dim;
    float* const to = table[a];
    if (!ACROSS_HEADS<S>) memset(to, 0, D * step * sizeof(float));
    float largest = 0;
    with_element(p.dtype, [&](auto element) INLINE_LAMBDA {
      using T = decltype(element);
      for (int64_t r = 0; r < distances; r++) {
        float norm = 0;
        for (int64_t d = 0; d < D; d++) {
          const float x = to_float(((const T*)p.table[a].data)[r * p.table[a].stride[0] + d * p.table[a].stride[1]]);
          to[ACROSS_HEADS<S> ? r * step + d : d * step + r] = x;
          norm += x * x;
        }
        largest = larger_or_nan(largest, norm);
      }
    });
    table_norm += root(largest);
  }
}

}  // namespace
