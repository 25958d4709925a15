#include "cpu/ops.h"

#define FAIRTAT_QUOTE(name) #name
#define FAIRTAT_NAME(name) FAIRTAT_QUOTE(name)

namespace fairtat {
namespace FAIRTAT_ISA {

extern const CpuKernels kernels;
const CpuKernels kernels = {
    FAIRTAT_NAME(FAIRTAT_ISA), pgd_init,       pgd_step,       logit_loss, sample_targets,
    class_stats,               winograd_tiles, winograd_image,
};

}  // namespace FAIRTAT_ISA
}  // namespace fairtat
