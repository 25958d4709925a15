#include "cuda/count.h"
#include "cuda/held_row.h"
#include "math/logit_stats.h"

namespace fairtat {
namespace cuda {
namespace {

// The largest logit of a row and its class: NaN is largest, the lower class comes first among equals.
struct Best {
  float value;
  int index;
};

__device__ Best better(Best a, Best b) {
  if (comes_before(a.value, b.value)) return a;
  if (comes_before(b.value, a.value)) return b;
  return a.index < b.index ? a : b;
}

__device__ Best shuffled(Best best, int offset) {
  return {__shfl_xor_sync(~0u, best.value, offset), __shfl_xor_sync(~0u, best.index, offset)};
}

__device__ Best best_of_warp(Best best) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) best = better(best, shuffled(best, offset));
  return best;
}

// In the order of logit_loss, whose losses these are to the last bit.
__device__ float sum_of_warp(float sum) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
  return sum;
}

constexpr Best kNothing{-INFINITY, INT32_MAX};

__device__ void count_row(const LogitStatsArgs& a, int64_t sample, Best best, float rest, float own) {
  const bool has_target = a.target != nullptr;
  count_sample(GlobalCounts{a.buffer}, a.classes,
               {a.label[sample], best.index, true, has_target, cross_entropy_of(best.value, rest, own),
                has_target ? a.target[sample] : 0});
}

// A label out of range counts nowhere, but must not be read at either.
template <typename T>
__device__ float logit_of(const T* row, int64_t label, int64_t classes) {
  return in_range(label, classes) ? to_float(row[label]) : 0.0f;
}

// A team for each row that logit_loss holds in registers, in its order.
template <typename T, int kWarps>
__global__ void __launch_bounds__(Team<kWarps>::kBlock, Team<kWarps>::kBlocks) held_rows_kernel(LogitStatsArgs a) {
  using Team = Team<kWarps>;
  const int64_t s = Team::row();
  if (s >= a.n) return;
  const int classes = static_cast<int>(a.classes);
  const T* row = static_cast<const T*>(a.logits) + s * classes;
  Words16 words[Team::kHeld / Vector<T>::kWidth];
  load_row<T, kWarps>(row, classes, words);
  const float own = logit_of(row, a.label[s], a.classes);
  HeldRow<Team::kHeld> held;
  weigh_row<T, kWarps>(words, classes, held);
  Best best{held.top, static_cast<int>(held.best)};
  if (held.rest != held.rest) {
    best = kNothing;
    for (int j = threadIdx.x % kWarp; j < classes; j += kWarp) best = better(best, {to_float(row[j]), j});
    best = best_of_warp(best);
  }
  if (Team::rank() == 0) count_row(a, s, best, held.rest, own);
}

// A warp for each other row that is short: kPerLane logits to a lane, all loads before the first use.
template <typename T, int kPerLane>
__global__ void short_rows_kernel(LogitStatsArgs a) {
  const int lane = static_cast<int>(threadIdx.x % kWarp), classes = static_cast<int>(a.classes);
  const int64_t warps = static_cast<int64_t>(gridDim.x) * (kThreads / kWarp);
  for (int64_t s = static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp; s < a.n; s += warps) {
    const T* row = static_cast<const T*>(a.logits) + s * a.classes;
    float z[kPerLane];
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int j = i * kWarp + lane;
      z[i] = j < classes ? to_float(row[j]) : -INFINITY;
    }
    Best best = kNothing;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int j = i * kWarp + lane;
      if (j < classes) best = better(best, {z[i], j});
    }
    best = best_of_warp(best);
    float rest = 0.0f;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      const int j = i * kWarp + lane;
      if (j < classes && j != best.index) rest += exp_nonpositive(z[i] - best.value);
    }
    rest = sum_of_warp(rest);
    if (lane == 0) count_row(a, s, best, rest, logit_of(row, a.label[s], a.classes));
  }
}

// A block for each row, which is read a second time from the cache.
template <typename T>
__global__ void long_rows_kernel(LogitStatsArgs a) {
  __shared__ Best bests[kThreads / kWarp];
  __shared__ float sums[kThreads / kWarp];
  const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int64_t s = blockIdx.x; s < a.n; s += gridDim.x) {
    const T* row = static_cast<const T*>(a.logits) + s * a.classes;
    Best best = kNothing;
    for (int64_t j = threadIdx.x; j < a.classes; j += kThreads) {
      best = better(best, {to_float(row[j]), static_cast<int>(j)});
    }
    best = best_of_warp(best);
    __syncthreads();  // the previous row's have been read
    if (lane == 0) bests[warp] = best;
    __syncthreads();
    best = bests[0];
    for (int w = 1; w < kThreads / kWarp; ++w) best = better(best, bests[w]);
    float rest = 0.0f;
    for (int64_t j = threadIdx.x; j < a.classes; j += kThreads) {
      if (j != best.index) rest += exp_nonpositive(to_float(row[j]) - best.value);
    }
    rest = sum_of_warp(rest);
    if (lane == 0) sums[warp] = rest;
    __syncthreads();
    if (threadIdx.x == 0) {
      rest = sums[0];
      for (int w = 1; w < kThreads / kWarp; ++w) rest += sums[w];
      count_row(a, s, best, rest, logit_of(row, a.label[s], a.classes));
    }
  }
}

template <typename T>
void launch(const LogitStatsArgs& a, cudaStream_t stream) {
  const unsigned warps = grid_for(a.n, kThreads / kWarp);
  if (is_held<T>(a.logits, a.classes)) {
    if (a.classes <= kShortRow) {
      held_rows_kernel<T, 1><<<Team<1>::blocks(a.n), Team<1>::kBlock, 0, stream>>>(a);
    } else {
      held_rows_kernel<T, 2><<<Team<2>::blocks(a.n), Team<2>::kBlock, 0, stream>>>(a);
    }
  } else if (a.classes <= kWarp) {
    short_rows_kernel<T, 1><<<warps, kThreads, 0, stream>>>(a);
  } else if (a.classes <= 8 * kWarp) {
    short_rows_kernel<T, 8><<<warps, kThreads, 0, stream>>>(a);
  } else if (a.classes <= 32 * kWarp) {
    short_rows_kernel<T, 32><<<warps, kThreads, 0, stream>>>(a);
  } else {
    long_rows_kernel<T><<<grid_for(a.n, 1), kThreads, 0, stream>>>(a);
  }
}

}  // namespace

void logit_stats(const LogitStatsArgs& a, Place place) {
  if (a.n == 0) return;
  launch_on(place, "logit_stats", [&](cudaStream_t stream) {
    with_type(a.logits_dtype, [&](auto logit) { launch<decltype(logit)>(a, stream); });
  });
}

}  // namespace cuda
}  // namespace fairtat
