// The CPU kernels as a table of functions, one table for each instruction set.
#pragma once

#include "args.h"

namespace fairtat {

// An index that lies outside [0, C): which argument and which value. Found before anything is written.
struct BadIndex {
  const char* argument = nullptr;  // null: every index is in range
  int64_t value = 0;
};

struct CpuKernels {
  const char* name;
  void (*pgd_init)(const PgdInitArgs&);
  void (*pgd_step)(const PgdStepArgs&);
  BadIndex (*logit_loss)(const LogitLossArgs&);
  BadIndex (*sample_targets)(const SampleTargetsArgs&);
  BadIndex (*class_stats)(const ClassStatsArgs&);
  void (*winograd_tiles)(const WinogradArgs&);  // image -> tiles
  void (*winograd_image)(const WinogradArgs&);  // tiles -> image_out
};

namespace baseline {
extern const CpuKernels kernels;
}
namespace avx2 {
extern const CpuKernels kernels;
}
namespace avx512 {
extern const CpuKernels kernels;
}

// The table in use; chosen once from what the processor has.
const CpuKernels& cpu_kernels();
// Names of the tables that this processor can run, slowest first; ends with a null pointer.
const char* const* cpu_isas();
// Use the named table from now on; false if this processor cannot run it. For tests and comparisons.
bool set_cpu_isa(const char* name);

}  // namespace fairtat
