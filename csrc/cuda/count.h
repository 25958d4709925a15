// Counting one sample into the statistics' buffer, in global memory or in a block's own copy of it.
#pragma once

#include "cuda/launch.h"
#include "math/class_stats.h"

namespace fairtat {
namespace cuda {

// Every memory space has native additions of its own: additions of 64 bits in global memory, of 32 in shared memory.
// What is added to must be of a known space, or the compiler makes a loop of compare-and-swap that serves any.
struct GlobalCounts {
  int64_t* buffer;

  __device__ void add(int64_t entry, int64_t value) const {
    // Two's complement: unsigned addition is signed addition.
    atomicAdd(reinterpret_cast<unsigned long long*>(buffer + entry), static_cast<unsigned long long>(value));
  }
  __device__ void count(int64_t entry) const { add(entry, 1); }
};

inline __device__ bool in_range(int64_t index, int64_t classes) { return index >= 0 && index < classes; }

struct Sample {
  int64_t label, pred;
  bool has_loss, has_target;
  float loss;
  int64_t target;
};

// A sample whose index is out of range counts nowhere, one whose loss is not finite only as that. Integer additions
// commute, so neither the order of the atomics nor the space can be seen.
template <typename Counts>
__device__ void count_sample(Counts to, int64_t classes, Sample s) {
  if (!in_range(s.label, classes) || !in_range(s.pred, classes)) return;
  if (s.has_target && !in_range(s.target, classes)) return;
  if (s.has_loss) {
    if (!(fabsf(s.loss) < INFINITY)) {
      to.count(kNonfinite * classes + s.label);
      return;
    }
    const FixedPoint fixed = to_fixed_point(fmaxf(fminf(s.loss, kLossMax), -kLossMax));
    const int64_t pair = kLoss * classes + 2 * s.label;
    if (fixed.whole != 0) to.add(pair, fixed.whole);
    to.add(pair + 1, fixed.fraction);
    if (!fits_fixed_point(s.loss)) to.count(kSaturated * classes + s.label);
  }
  if (s.has_target) {
    const bool hit = s.pred == s.target;
    to.count(hit ? kReached * classes + s.label : kTargetFp * classes + s.pred);
    if (!hit) to.count(kTargetFn * classes + s.label);
  }
  to.count((kConfusion + s.label) * classes + s.pred);
}

}  // namespace cuda
}  // namespace fairtat
