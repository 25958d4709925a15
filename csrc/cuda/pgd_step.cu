// The step on the GPU; each norm has its kernels in a file of its own.
#include "cuda/pgd_step.h"

namespace fairtat {
namespace cuda {

void pgd_step(const PgdStepArgs& a, Place place) {
  if (a.norm == Norm::l1) throw std::invalid_argument("pgd_step: no CUDA kernel for l1");
  if (a.n == 0 || a.d == 0) return;
  if (a.mean != nullptr && a.d > UINT32_MAX) throw std::runtime_error("pgd_step: mean and std need samples below 2**32 elements");
  launch_on(place, "pgd_step", [&](cudaStream_t stream) {
    if (a.norm == Norm::l2) {
      l2_steps(a, stream);
    } else {
      linf_steps(a, stream);
    }
  });
}

}  // namespace cuda
}  // namespace fairtat
