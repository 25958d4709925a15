#include "cuda/launch.h"
#include "math/sample_targets.h"

namespace fairtat {
namespace cuda {
namespace {

// A label out of range cannot raise without a synchronisation: its target is -1, which no class is.
__global__ void sample_targets_kernel(SampleTargetsArgs a) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t s = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; s < a.n; s += stride) {
    const int64_t label = a.label[s];
    if (label < 0 || label >= a.classes) {
      a.target[s] = -1;
      continue;
    }
    const uint64_t id = static_cast<uint64_t>(a.sample_ids ? a.sample_ids[s] : s);
    const uint32_t word = philox(kTargetPosition, a.stream, id, a.seed).w[0];
    a.target[s] = draw_target(a.by_label ? a.table + label * a.classes : a.table, a.classes, label, word);
  }
}

}  // namespace

void sample_targets(const SampleTargetsArgs& a, Place place) {
  if (a.n == 0) return;
  launch_on(place, "sample_targets", [&](cudaStream_t stream) {
    sample_targets_kernel<<<grid_for(a.n), kThreads, 0, stream>>>(a);
  });
}

}  // namespace cuda
}  // namespace fairtat
