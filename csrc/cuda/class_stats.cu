#include "cuda/launch.h"
#include "math/class_stats.h"

namespace fairtat {
namespace cuda {
namespace {

__device__ void add(int64_t* to, int64_t value) {
  // Two's complement: unsigned addition is signed addition.
  atomicAdd(reinterpret_cast<unsigned long long*>(to), static_cast<unsigned long long>(value));
}

__device__ bool in_range(int64_t index, int64_t classes) { return index >= 0 && index < classes; }

// A sample whose index is out of range counts nowhere, one whose loss is not finite only as that.
__device__ void count_sample(const ClassStatsArgs& a, int64_t i, int64_t* buffer) {
  const int64_t classes = a.classes, label = a.label[i], pred = a.pred[i];
  const int64_t target = a.target != nullptr ? a.target[i] : 0;
  if (!in_range(label, classes) || !in_range(pred, classes) || !in_range(target, classes)) return;
  if (a.loss != nullptr) {
    const float loss = a.loss[i];
    if (!(fabsf(loss) < INFINITY)) {
      add(buffer + kNonfinite * classes + label, 1);
      return;
    }
    const FixedPoint fixed = to_fixed_point(fmaxf(fminf(loss, kLossMax), -kLossMax));
    FixedPoint* const sum = loss_sums(buffer, classes) + label;
    if (fixed.whole != 0) add(&sum->whole, fixed.whole);
    add(&sum->fraction, fixed.fraction);
    if (!fits_fixed_point(loss)) add(buffer + kSaturated * classes + label, 1);
  }
  if (a.target != nullptr) {
    if (pred == target) {
      add(buffer + kReached * classes + label, 1);
    } else {
      add(buffer + kTargetFp * classes + pred, 1);
      add(buffer + kTargetFn * classes + label, 1);
    }
  }
  add(buffer + (kConfusion + label) * classes + pred, 1);
}

// Integer additions commute, so neither the order of the atomics nor the route through shared memory can be seen.
__global__ void class_stats_kernel(ClassStatsArgs a, int64_t shared_entries) {
  extern __shared__ int64_t histogram[];
  for (int64_t j = threadIdx.x; j < shared_entries; j += blockDim.x) histogram[j] = 0;
  __syncthreads();
  int64_t* buffer = shared_entries > 0 ? histogram : a.buffer;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < a.n; i += stride) {
    count_sample(a, i, buffer);
  }
  __syncthreads();
  for (int64_t j = threadIdx.x; j < shared_entries; j += blockDim.x) {
    if (histogram[j] != 0) add(a.buffer + j, histogram[j]);
  }
}

}  // namespace

void class_stats(const ClassStatsArgs& a, Place place) {
  if (a.n == 0) return;
  const DeviceGuard guard(place.device);
  // Few classes make many collisions, which shared memory absorbs; many classes spread over global memory.
  constexpr int64_t kSharedBytes = 48 * 1024;
  const int64_t entries = (kConfusion + a.classes) * a.classes;
  const bool fits = entries * static_cast<int64_t>(sizeof(int64_t)) <= kSharedBytes;
  const int64_t shared_entries = fits ? entries : 0;
  // A block that flushes its histogram should have counted a few thousand samples first.
  const unsigned blocks = fits ? grid_for(a.n, 16 * kThreads) : grid_for(a.n);
  class_stats_kernel<<<blocks, kThreads, static_cast<size_t>(shared_entries) * sizeof(int64_t),
                       static_cast<cudaStream_t>(place.stream)>>>(a, shared_entries);
  check(cudaGetLastError(), "class_stats");
}

}  // namespace cuda
}  // namespace fairtat
