#include "cpu/ops.h"

#define FAIRTAT_QUOTE(name) #name
#define FAIRTAT_NAME(name) FAIRTAT_QUOTE(name)

namespace fairtat {
namespace FAIRTAT_ISA {

extern const CpuKernels kernels;
const CpuKernels kernels = {
    FAIRTAT_NAME(FAIRTAT_ISA),
#define OP(name, Type, Result) name,
#define CPU_OP OP
#include "ops.def"
};

}  // namespace FAIRTAT_ISA
}  // namespace fairtat
