// Vectors of floats through the vector extensions of GCC and Clang: one source for all instruction sets.
//
// A unit sets ATTNCONV_WIDTH, the floats per vector, before it includes this file. Everything is in an unnamed namespace,
// without the C++ library: an object built for AVX-512 must not export a function to the other objects.
#pragma once
#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))
#define INLINE_LAMBDA __attribute__((always_inline))
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

namespace {

constexpr int WIDTH = ATTNCONV_WIDTH;
typedef float Vec __attribute__((vector_size(4 * WIDTH)));
typedef int32_t Ints __attribute__((vector_size(4 * WIDTH)));
typedef uint32_t Bits __attribute__((vector_size(4 * WIDTH)));
typedef float Four __attribute__((vector_size(16)));

INLINE Vec load(const float* from) {
  Vec x;
  __builtin_memcpy(&x, from, sizeof x);
  return x;
}
INLINE void store(float* to, Vec x) { __builtin_memcpy(to, &x, sizeof x); }
INLINE Vec broadcast(float x) { return x - Vec{}; }
INLINE Vec broadcast(Vec x) { return x; }

constexpr INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
constexpr INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The functions below take a float or a vector.
template <class S> INLINE S larger(S a, S b) { return a > b ? a : b; }
// The larger one; NaN if either is.
template <class S> INLINE S larger_or_nan(S a, S b) { return a > b ? a : b == b ? b > a ? b : a : b; }

INLINE bool any(bool x) { return x; }
INLINE bool any(Ints x) {
  int32_t found = 0;
  for (int i = 0; i < WIDTH; i++) found |= x[i];
  return found != 0;
}

// x + ROUND - ROUND is x rounded to a whole number, for |x| < 2**22.
constexpr float ROUND = 12582912.f;
template <class S> INLINE S ceil_of(S x) {
  const S whole = (x + ROUND) - ROUND;
  return whole < x ? whole + 1.f : whole;
}
INLINE float root(float x) { return __builtin_sqrtf(x); }
INLINE Vec root(Vec x) {
  for (int i = 0; i < WIDTH; i++) x[i] = __builtin_sqrtf(x[i]);
  return x;
}

// 2**x on [-1/2, 1/2]: a minimax polynomial, exact at 0, relative error 1.6e-7 with its rounding.
constexpr float EXP2_0 = 1.f, EXP2_1 = 0.6931470037f, EXP2_2 = 0.2402224243f, EXP2_3 = 0.05550733581f,
                EXP2_4 = 0.009671512991f, EXP2_5 = 0.001326472731f;
INLINE Vec exp2_fraction(Vec x) {
  Vec p = x * EXP2_5 + EXP2_4;
  p = p * x + EXP2_3;
  p = p * x + EXP2_2;
  p = p * x + EXP2_1;
  return p * x + EXP2_0;
}

// 2**(x - whole) of N vectors in step, so that their chains of dependent instructions overlap. ``whole`` is a whole
// number at or above x, up to rounding; x at ``low`` or below gives 0, where CUT, and else must not occur; NaN gives NaN.
// With ``magic`` = ROUND - whole, the sum x + magic has the exponent of the result in its lowest bits, and nothing is
// rounded but the fraction of x.
template <bool CUT, int N, class S> INLINE void exp2_below(Vec (&x)[N], S low, S magic) {
  const Vec floor = broadcast(low), m = broadcast(magic);
  Vec sum[N];
  Ints gone[N];
  UNROLL for (int i = 0; i < N; i++) gone[i] = x[i] <= floor;
  UNROLL for (int i = 0; i < N; i++) sum[i] = x[i] + m;
  UNROLL for (int i = 0; i < N; i++) x[i] -= sum[i] - m;
  UNROLL for (int i = 0; i < N; i++) {
    const Bits y = (Bits)exp2_fraction(x[i]) + ((Bits)sum[i] << 23);
    x[i] = (Vec)(CUT ? gone[i] ? Bits{} : y : y);
  }
}

// 2**x for x in [0, 1].
INLINE float exp2_unit(float x) { return __builtin_exp2f(x); }
INLINE Vec exp2_unit(Vec x) {
  const Vec half = exp2_fraction(x * 0.5f);
  return half * half;
}

// log2 of a positive normal number: exponent, then the series of artanh, on [sqrt(1/2), sqrt(2)].
INLINE float log2_of(float x) { return __builtin_log2f(x); }
INLINE Vec log2_of(Vec x) {
  const Ints bits = (Ints)x, exponent = (bits - 0x3f3504f3) >> 23;
  const Vec m = (Vec)(bits - (exponent << 23));
  const Vec y = (m - 1.f) / (m + 1.f), z = y * y;
  const Vec series = (((z * (1 / 9.f) + 1 / 7.f) * z + 1 / 5.f) * z + 1 / 3.f) * z + 1.f;
  return __builtin_convertvector(exponent, Vec) + y * series * 2.885390082f;  // 2 / log 2
}

// Four rows of four to four columns.
INLINE void transpose(Four& a, Four& b, Four& c, Four& d) {
  const Four p = __builtin_shufflevector(a, b, 0, 4, 1, 5), q = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Four r = __builtin_shufflevector(c, d, 0, 4, 1, 5), s = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  a = __builtin_shufflevector(p, r, 0, 1, 4, 5), b = __builtin_shufflevector(p, r, 2, 3, 6, 7);
  c = __builtin_shufflevector(q, s, 0, 1, 4, 5), d = __builtin_shufflevector(q, s, 2, 3, 6, 7);
}
// The same in each quarter of four vectors.
#define LANE(quarter, i) 4 * (quarter) + (i) % 4 + (i) / 4 * WIDTH
#define LANES(quarter, i, j, k, l) LANE(quarter, i), LANE(quarter, j), LANE(quarter, k), LANE(quarter, l)
#if ATTNCONV_WIDTH == 16
#define IN_QUARTERS(a, b, ...) \
  __builtin_shufflevector(a, b, LANES(0, __VA_ARGS__), LANES(1, __VA_ARGS__), LANES(2, __VA_ARGS__), LANES(3, __VA_ARGS__))
#elif ATTNCONV_WIDTH == 8
#define IN_QUARTERS(a, b, ...) __builtin_shufflevector(a, b, LANES(0, __VA_ARGS__), LANES(1, __VA_ARGS__))
#else
#define IN_QUARTERS(a, b, ...) __builtin_shufflevector(a, b, LANES(0, __VA_ARGS__))
#endif
INLINE void transpose_quarters(Vec& a, Vec& b, Vec& c, Vec& d) {
  const Vec p = IN_QUARTERS(a, b, 0, 4, 1, 5), q = IN_QUARTERS(a, b, 2, 6, 3, 7);
  const Vec r = IN_QUARTERS(c, d, 0, 4, 1, 5), s = IN_QUARTERS(c, d, 2, 6, 3, 7);
  a = IN_QUARTERS(p, r, 0, 1, 4, 5), b = IN_QUARTERS(p, r, 2, 3, 6, 7);
  c = IN_QUARTERS(q, s, 0, 1, 4, 5), d = IN_QUARTERS(q, s, 2, 3, 6, 7);
}
// Quarters put together, and taken apart.
INLINE Vec joined(const Four* part) {
#if ATTNCONV_WIDTH == 4
  return part[0];
#else
  const auto low = __builtin_shufflevector(part[0], part[1], 0, 1, 2, 3, 4, 5, 6, 7);
#if ATTNCONV_WIDTH == 8
  return low;
#else
  const auto high = __builtin_shufflevector(part[2], part[3], 0, 1, 2, 3, 4, 5, 6, 7);
  return __builtin_shufflevector(low, high, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#endif
#endif
}
INLINE void taken_apart(Vec x, Four* part) { __builtin_memcpy(part, &x, sizeof x); }
INLINE Four load_four(const float* from) {
  Four x;
  __builtin_memcpy(&x, from, sizeof x);
  return x;
}
INLINE void store_four(float* to, Four x) { __builtin_memcpy(to, &x, sizeof x); }

// The four quarters, or so many, of a vector added up.
INLINE Four fold(Vec x) {
  Four part[WIDTH / 4], sum;
  taken_apart(x, part);
  sum = part[0];
  UNROLL for (int i = 1; i < WIDTH / 4; i++) sum += part[i];
  return sum;
}
// Sums over the lanes of four vectors.
INLINE void lane_sums(const Vec* from, float* to) {
  Four a = fold(from[0]), b = fold(from[1]), c = fold(from[2]), d = fold(from[3]);
  transpose(a, b, c, d);
  store_four(to, (a + b) + (c + d));
}
// Their largest lanes; NaN if a lane is, where NANS.
template <bool NANS> INLINE void lane_maxima(const Vec* from, float* to) {
  const auto top = [](Four a, Four b) INLINE_LAMBDA { return NANS ? larger_or_nan(a, b) : larger(a, b); };
  Four row[4];
  UNROLL for (int i = 0; i < 4; i++) {
    Four part[WIDTH / 4];
    taken_apart(from[i], part);
    row[i] = part[0];
    UNROLL for (int j = 1; j < WIDTH / 4; j++) row[i] = top(row[i], part[j]);
  }
  transpose(row[0], row[1], row[2], row[3]);
  store_four(to, top(top(row[0], row[1]), top(row[2], row[3])));
}

// Elements of the tensors, computed with as floats.
struct Bfloat16 {
  uint16_t bits;
};
#ifdef __aarch64__
typedef __fp16 Float16;  // GCC 12 has no _Float16 there
#else
typedef _Float16 Float16;
#endif
INLINE float to_float(float x) { return x; }
INLINE float to_float(uint8_t x) { return float(x); }
INLINE float to_float(Float16 x) { return float(x); }
INLINE float to_float(Bfloat16 x) {
  const uint32_t bits = uint32_t(x.bits) << 16;
  float y;
  __builtin_memcpy(&y, &bits, 4);
  return y;
}
INLINE void put(float* to, float x) { *to = x; }
INLINE void put(Float16* to, float x) { *to = Float16(x); }
INLINE void put(Bfloat16* to, float x) {  // to nearest, ties to even
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  to->bits = x != x ? 0x7fc0 : uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
INLINE Four four_of(const float* from) { return load_four(from); }
template <class T> INLINE Four four_of(const T* from) {
  return Four{to_float(from[0]), to_float(from[1]), to_float(from[2]), to_float(from[3])};
}
INLINE void put_four(float* to, Four x) { store_four(to, x); }
template <class T> INLINE void put_four(T* to, Four x) {
  UNROLL for (int i = 0; i < 4; i++) put(to + i, x[i]);
}

}  // namespace
