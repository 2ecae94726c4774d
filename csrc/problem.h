// One call of the library: filled by Python, read by every unit.
//
// kernels/relative_attention/native.py declares the same fields in the same order; VERSION changes with them and with the library's functions.
// Letters: B batch, N heads, D key / E value channels a head, n length of one axis of the map.
#pragma once
#include <stdint.h>

constexpr int32_t VERSION = 4;

enum Dtype : int64_t { FLOAT32, BFLOAT16, FLOAT16 };

struct View {  // (B, N, three axes of the map, D or E): strides in elements
  void* data;
  int64_t stride[6];
};

struct Table {  // (2n - 1, D); data is null where there are no position terms
  const void* data;
  int64_t stride[2];
  float* grad;  // (2n - 1, D) contiguous, written by the backward
};

struct Problem {
  // Maps of the queries and of the keys, equal where there are tables; one of fewer axes has leading ones of length 1.
  int64_t batch, heads, size[3], key_size[3], key_dim, value_dim;
  int64_t dtype;
  double scale;
  View q, k, v;
  View mask;                          // (B, 1, *key map, 1) of bytes, zero where no query may look, not all; data is null for none
  View out, lse;                      // written by the forward, read by the backward; lse: float32, in log2 units
  View grad, grad_q, grad_k, grad_v;  // of the backward
  Table table[3];
  int64_t workers;  // maximum number of threads
  void* workspace;  // of workspace_bytes() bytes
};

// torch_parallel_for of torch/csrc/stable/c/shim.h
using Body = void (*)(int64_t begin, int64_t end, void* context);
using ParallelFor = int32_t (*)(int64_t begin, int64_t end, int64_t grain_size, Body, void* context);

struct Unit {  // the kernel for one instruction set
  const char* name;
  int64_t (*workspace_bytes)(const Problem&, bool backward);
  int32_t (*forward)(const Problem&, ParallelFor);
  int32_t (*backward)(const Problem&, ParallelFor);
  void (*rates)(double* found);  // multiply-adds and exponentials a second, of one core
};

extern "C" __attribute__((visibility("hidden"))) const Unit attnconv_unit_avx512, attnconv_unit_avx2, attnconv_unit_baseline;
