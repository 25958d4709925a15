#include "cuda/count.h"

namespace fairtat {
namespace cuda {
namespace {

// A block's own copy of the buffer, for few classes: the collisions that they make stay on one multiprocessor. Entries
// are two words of 32 bits, whose additions shared memory does itself.
constexpr int64_t kMostEntries = 2048;
__shared__ uint32_t shared_low[kMostEntries], shared_high[kMostEntries];

struct SharedCounts {
  // The carry of each addition is decided by what it found, so their sum is right in any order.
  __device__ void add(int64_t entry, int64_t value) const {
    const uint32_t low = static_cast<uint32_t>(value);
    const uint32_t found = atomicAdd(&shared_low[entry], low);
    const uint32_t high = static_cast<uint32_t>(value >> 32) + (found + low < low ? 1u : 0u);
    if (high != 0) atomicAdd(&shared_high[entry], high);
  }
  // A block counts fewer than 2**32 samples.
  __device__ void count(int64_t entry) const { atomicAdd(&shared_low[entry], 1u); }
};

template <typename Counts>
__device__ void count_batch(const ClassStatsArgs& a, Counts to) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < a.n; i += stride) {
    const bool has_loss = a.loss != nullptr, has_target = a.target != nullptr;
    count_sample(to, a.classes,
                 {a.label[i], a.pred[i], has_loss, has_target, has_loss ? a.loss[i] : 0.0f, has_target ? a.target[i] : 0});
  }
}

__global__ void few_classes_kernel(ClassStatsArgs a, int entries) {
  for (int j = static_cast<int>(threadIdx.x); j < entries; j += kThreads) shared_low[j] = shared_high[j] = 0;
  __syncthreads();
  count_batch(a, SharedCounts{});
  __syncthreads();
  for (int j = static_cast<int>(threadIdx.x); j < entries; j += kThreads) {
    const uint64_t sum = static_cast<uint64_t>(shared_high[j]) << 32 | shared_low[j];
    if (sum != 0) GlobalCounts{a.buffer}.add(j, static_cast<int64_t>(sum));
  }
}

__global__ void many_classes_kernel(ClassStatsArgs a) { count_batch(a, GlobalCounts{a.buffer}); }

}  // namespace

void class_stats(const ClassStatsArgs& a, Place place) {
  if (a.n == 0) return;
  // A sample makes up to six additions; a copy that has more entries than a block makes costs more than it saves.
  const int64_t entries = (kConfusion + a.classes) * a.classes;
  launch_on(place, "class_stats", [&](cudaStream_t stream) {
    if (entries <= kMostEntries) {
      few_classes_kernel<<<grid_for(a.n), kThreads, 0, stream>>>(a, static_cast<int>(entries));
    } else {
      many_classes_kernel<<<grid_for(a.n), kThreads, 0, stream>>>(a);
    }
  });
}

}  // namespace cuda
}  // namespace fairtat
