#include <cstring>

#include "cpu/kernels.h"

namespace fairtat {
namespace {

constexpr int kTables = 3;

struct Choice {
  const CpuKernels* tables[kTables] = {};
  const char* names[kTables + 1] = {};
  const CpuKernels* active = nullptr;

  Choice() {
    int count = 0;
    tables[count++] = &baseline::kernels;
#ifdef FAIRTAT_X86
    __builtin_cpu_init();
    const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                          __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi2");
    if (has_avx2) tables[count++] = &avx2::kernels;
    if (has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
      tables[count++] = &avx512::kernels;
    }
#endif
    for (int i = 0; i < count; ++i) names[i] = tables[i]->name;
    active = tables[count - 1];
  }
};

Choice& choice() {
  static Choice instance;
  return instance;
}

}  // namespace

const CpuKernels& cpu_kernels() { return *choice().active; }

const char* const* cpu_isas() { return choice().names; }

bool set_cpu_isa(const char* name) {
  for (const CpuKernels* table : choice().tables) {
    if (table != nullptr && std::strcmp(table->name, name) == 0) {
      choice().active = table;
      return true;
    }
  }
  return false;
}

}  // namespace fairtat
