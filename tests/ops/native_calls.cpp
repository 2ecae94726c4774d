// Calls of the library without Python, for processors that run here in an emulator alone: a problem from stdin, of
// contiguous float32 tensors, and everything that is computed of it to stdout.
#include <stdio.h>

#include <vector>

#include "../../csrc/problem.h"

extern "C" {
const char* attnconv_select(const char*);
int64_t attnconv_workspace_bytes(const Problem*, int32_t backward);
int32_t attnconv_forward(const Problem*, void* workspace, ParallelFor);
int32_t attnconv_backward(const Problem*, void* workspace, ParallelFor);
}

namespace {

int32_t one_by_one(int64_t begin, int64_t end, int64_t, Body body, void* context) {
  for (int64_t i = begin; i < end; i++) body(i, i + 1, context);
  return 0;
}

struct Tensor {
  std::vector<float> values;
  View view;

  Tensor(const Problem& p, int64_t width) : values(p.batch * p.heads * p.size[0] * p.size[1] * p.size[2] * width) {
    const int64_t shape[6] = {p.batch, p.heads, p.size[0], p.size[1], p.size[2], width};
    view.data = values.data();
    for (int64_t axis = 5, stride = 1; axis >= 0; stride *= shape[axis--]) view.stride[axis] = stride;
  }
};

bool read(std::vector<float>& to) { return fread(to.data(), 4, to.size(), stdin) == to.size(); }
void write(const std::vector<float>& from) { fwrite(from.data(), 4, from.size(), stdout); }

}  // namespace

int main() {
  Problem p{};
  int64_t numbers[7];
  if (!attnconv_select("") || fread(numbers, 8, 7, stdin) != 7) return 1;
  p.batch = numbers[0], p.heads = numbers[1], p.key_dim = numbers[5], p.value_dim = numbers[6];
  for (int axis = 0; axis < 3; axis++) p.size[axis] = p.key_size[axis] = numbers[2 + axis];
  p.dtype = FLOAT32, p.scale = 0.5, p.workers = 3;
  const int64_t D = p.key_dim, E = p.value_dim;
  Tensor q(p, D), k(p, D), v(p, E), grad(p, E), out(p, E), lse(p, 1), grad_q(p, D), grad_k(p, D), grad_v(p, E);
  std::vector<float> tables[3], grad_tables[3];
  if (!read(q.values) || !read(k.values) || !read(v.values) || !read(grad.values)) return 1;
  for (int axis = 0; axis < 3; axis++) {
    tables[axis].resize((2 * p.size[axis] - 1) * D), grad_tables[axis].resize(tables[axis].size());
    if (!read(tables[axis])) return 1;
    p.table[axis] = {tables[axis].data(), {D, 1}, grad_tables[axis].data()};
  }
  p.q = q.view, p.k = k.view, p.v = v.view, p.grad = grad.view, p.out = out.view, p.lse = lse.view;
  p.grad_q = grad_q.view, p.grad_k = grad_k.view, p.grad_v = grad_v.view;
  for (int32_t backward = 0; backward < 2; backward++) {
    std::vector<char> workspace(attnconv_workspace_bytes(&p, backward) + 64);
    char* const aligned = workspace.data() + (64 - (uintptr_t)workspace.data() % 64) % 64;  // as torch aligns its memory
    if ((backward ? attnconv_backward : attnconv_forward)(&p, aligned, one_by_one)) return 1;
  }
  for (const Tensor* t : {&out, &grad_q, &grad_k, &grad_v}) write(t->values);
  for (const auto& values : grad_tables) write(values);
}
