// Functions for Python: choice of the instruction set, and calls of its unit.
#include <string.h>

#include "problem.h"

#define EXPORTED extern "C" __attribute__((visibility("default")))

namespace {

const Unit* unit = nullptr;

bool can_run([[maybe_unused]] const Unit& candidate) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!strcmp(candidate.name, "avx512"))
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("fma");
  if (!strcmp(candidate.name, "avx2")) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return true;
}

}  // namespace

EXPORTED int32_t attnconv_version() { return VERSION; }

// Select the instruction set of this name, or the widest if the name is empty. Returns the selected name, or null if this
// processor lacks it.
EXPORTED const char* attnconv_select(const char* name) {
  const Unit* const units[] = {
#if defined(__x86_64__)
      &attnconv_unit_avx512, &attnconv_unit_avx2,
#endif
      &attnconv_unit_baseline};
  for (const Unit* candidate : units)
    if ((!*name || !strcmp(candidate->name, name)) && can_run(*candidate)) {
      unit = candidate;
      return unit->name;
    }
  return nullptr;
}

EXPORTED int64_t attnconv_workspace_bytes(const Problem* p, int32_t backward) { return unit->workspace_bytes(*p, backward); }
EXPORTED int32_t attnconv_forward(const Problem* given, void* workspace, ParallelFor parallel_for) {
  Problem p = *given;
  p.workspace = workspace;
  return unit->forward(p, parallel_for);
}
EXPORTED int32_t attnconv_backward(const Problem* given, void* workspace, ParallelFor parallel_for) {
  Problem p = *given;
  p.workspace = workspace;
  return unit->backward(p, parallel_for);
}
EXPORTED void attnconv_rates(double* found) { unit->rates(found); }
