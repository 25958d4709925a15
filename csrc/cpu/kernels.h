// The CPU kernels as a table of functions, one table for each instruction set.
#pragma once

#include "args.h"

namespace fairtat {

struct CpuKernels {
  const char* name;
#define OP(name, Type, Result) Result (*name)(const Type&);
#define CPU_OP OP
#include "ops.def"
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
