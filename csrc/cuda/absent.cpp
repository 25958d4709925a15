// What stands in for the CUDA kernels in a build without them.
#include <stdexcept>

#include "cuda/kernels.h"

namespace fairtat {
namespace cuda {
namespace {

[[noreturn]] void refuse() {
  throw std::runtime_error("this build of fairtat has no CUDA kernels; build it with FAIRTAT_CUDA=1 and a CUDA compiler");
}

}  // namespace

void pgd_init(const PgdInitArgs&, Place) { refuse(); }
void pgd_step(const PgdStepArgs&, Place) { refuse(); }
void logit_loss(const LogitLossArgs&, Place) { refuse(); }
void sample_targets(const SampleTargetsArgs&, Place) { refuse(); }
void class_stats(const ClassStatsArgs&, Place) { refuse(); }

}  // namespace cuda
}  // namespace fairtat
