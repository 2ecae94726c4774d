// Peak rates of one core with this instruction set, as a reference for the time of a call.
#pragma once
#include <time.h>

#include "vectors.h"

namespace {

constexpr int BURSTS = 3, STEPS = 100000;  // the best burst counts, since other work only slows a core
// Sums in registers, enough to keep every multiply-add unit busy; two more registers hold the factors.
#if defined(__x86_64__) && ATTNCONV_WIDTH < 16
constexpr int SUMS = 12;
#else
constexpr int SUMS = 16;
#endif

double thread_seconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
}

NOINLINE double multiply_add_rate() {
  Vec sum[SUMS], x = broadcast(0.999f), y = broadcast(1e-4f);
  double best = 0;
  UNROLL for (int i = 0; i < SUMS; i++) sum[i] = broadcast(1e-3f * float(i));
  for (int burst = 0; burst < BURSTS; burst++) {
    const double begin = thread_seconds();
    for (int step = 0; step < STEPS; step++) UNROLL for (int i = 0; i < SUMS; i++) sum[i] = sum[i] * x + y;
    const double rate = double(SUMS) * WIDTH * STEPS / (thread_seconds() - begin);
    best = rate > best ? rate : best;
    for (int i = 0; i < SUMS; i++) asm volatile("" : : "m"(sum[i]));  // keeps the compiler from removing the loop
  }
  return best;
}

NOINLINE double exponential_rate() {
  Vec given[4];
  double best = 0;
  for (int i = 0; i < 4; i++) given[i] = broadcast(-float(i));
  for (int burst = 0; burst < BURSTS; burst++) {
    const double begin = thread_seconds();
    for (int step = 0; step < STEPS; step++) {
      Vec x[4];
      asm volatile("" : "+m"(given));
      UNROLL for (int i = 0; i < 4; i++) x[i] = given[i];
      exp2_below<true>(x, -100.f, ROUND);
      UNROLL for (int i = 0; i < 4; i++) asm volatile("" : : "m"(x[i]));
    }
    const double rate = 4. * WIDTH * STEPS / (thread_seconds() - begin);
    best = rate > best ? rate : best;
  }
  return best;
}

// Multiply-adds and exponentials per second.
void rates(double* found) {
  found[0] = multiply_add_rate();
  found[1] = exponential_rate();
}

}  // namespace
