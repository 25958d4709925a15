// A row of logits that one or two warps hold in registers: one read, whose loads are all in flight at once.
#pragma once

#include "cuda/launch.h"
#include "math/logit_loss.h"

namespace fairtat {
namespace cuda {
namespace {

constexpr int kShortRow = 256, kHeldRow = 1024;  // entries at most: of a row that a warp holds, of one that two hold

// The threads of a row. Two warps are a block, so that they can wait for each other.
template <int kWarps>
struct Team {
  static constexpr int kSize = kWarps * kWarp, kBlock = kWarps == 1 ? kThreads : kSize, kRows = kBlock / kSize;
  static constexpr int kBlocks = 1024 / kBlock;  // of a multiprocessor at least: without it, logit_stats spills on sm_100
  static constexpr int kHeld = (kWarps == 1 ? kShortRow : kHeldRow) / kSize;  // entries that a thread holds
  __device__ static int rank() { return static_cast<int>(threadIdx.x) % kSize; }
  __device__ static int64_t row() { return static_cast<int64_t>(blockIdx.x) * kRows + threadIdx.x / kSize; }
  static unsigned blocks(int64_t rows) { return static_cast<unsigned>((rows + kRows - 1) / kRows); }

  // What the team's warps have, merged in one order. For each type of value once in a kernel.
  template <typename Value, typename Merge>
  __device__ static Value merged(Value value, Merge merge) {
    if constexpr (kWarps > 1) {
      __shared__ Value of_warp[kWarps];
      if (threadIdx.x % kWarp == 0) of_warp[threadIdx.x / kWarp] = value;
      __syncthreads();
      value = of_warp[0];
      for (int warp = 1; warp < kWarps; ++warp) value = merge(value, of_warp[warp]);
    }
    return value;
  }
};

// exp(x) for x <= 0 by the hardware's exp2, within 2**-22 + 1.3 |x| 2**-24 of its value, so within 1e-5 wherever it is
// a normal float; 0 below those.
__device__ float hardware_exp(float x) {
  const float scaled = x * 0x1.715476p0f;
#if defined(__CUDA_ARCH__)
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(scaled));
  return power;
#else
  return scaled < -126.0f ? 0.0f : exp2f(scaled);
#endif
}

// 1 / x for a normal x that is not huge, within 2**-23 of its value.
__device__ float hardware_reciprocal(float x) {
#if defined(__CUDA_ARCH__)
  float reciprocal;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(x));
  return reciprocal;
#else
  return 1.0f / x;
#endif
}

__device__ uint32_t warp_sum(uint32_t value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  return __reduce_add_sync(~0u, value);
#else
  for (int offset = kWarp / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(~0u, value, offset);
  return value;
#endif
}

__device__ uint32_t warp_min(uint32_t value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  return __reduce_min_sync(~0u, value);
#else
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const uint32_t other = __shfl_xor_sync(~0u, value, offset);
    value = other < value ? other : value;
  }
  return value;
#endif
}

// 16 bytes of a row.
struct alignas(16) Words16 {
  uint32_t at[4];
};

template <typename T>
struct alignas(16) Vector {
  static constexpr int kWidth = 16 / sizeof(T);
  T at[kWidth];
};

// -infinity, as often as four bytes hold it.
template <typename T>
constexpr uint32_t kRuledOut = 0xff800000u;
template <>
constexpr uint32_t kRuledOut<BFloat16> = 0xff80ff80u;
template <>
constexpr uint32_t kRuledOut<Float16> = 0xfc00fc00u;

// The entries in 16 bytes.
template <typename T>
__device__ void unpack(const Words16& words, float* entries) {
  Vector<T> packed;
  memcpy(&packed, &words, sizeof packed);
  for (int k = 0; k < Vector<T>::kWidth; ++k) entries[k] = to_float(packed.at[k]);
}

template <>
__device__ inline void unpack<BFloat16>(const Words16& words, float* entries) {
  for (int k = 0; k < 4; ++k) {
    entries[2 * k] = float_of(words.at[k] << 16);
    entries[2 * k + 1] = float_of(words.at[k] & 0xffff0000u);
  }
}

// What a team knows of a row; top, rest and best are the same in each of its threads.
template <int kHeld>
struct HeldRow {
  float weight[kHeld];  // exp(z - top) of the thread's entries
  float top;            // the largest logit, NaN apart
  float rest;           // the sum of all weights but the first of the largest, for log1p; NaN where there is no softmax
  int64_t best;         // the first of the largest, unless rest is NaN
};

inline bool is_aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

// Whether teams can hold the rows: they are short, and each begins where a vector may.
template <typename T>
bool is_held(const void* logits, int64_t classes) {
  return classes <= kHeldRow && classes % Vector<T>::kWidth == 0 && is_aligned(logits);
}

// What lies beyond the row reads its beginning: no load waits for a branch.
template <typename T, int kWarps>
__device__ void load_row(const T* row, int classes, Words16 (&words)[Team<kWarps>::kHeld / Vector<T>::kWidth]) {
  constexpr int kWidth = Vector<T>::kWidth;
  for (int i = 0; i < Team<kWarps>::kHeld / kWidth; ++i) {
    const int j = (i * Team<kWarps>::kSize + Team<kWarps>::rank()) * kWidth;
    words[i] = *reinterpret_cast<const Words16*>(row + (j < classes ? j : 0));
  }
}

// Sums over entries: of the weights below the largest, of those that are the largest, and the first of these.
struct Tally {
  float rest;
  uint32_t tops, best;
};

template <typename T, int kWarps>
__device__ void weigh_row(Words16 (&words)[Team<kWarps>::kHeld / Vector<T>::kWidth], int classes,
                          HeldRow<Team<kWarps>::kHeld>& held) {
  constexpr int kWidth = Vector<T>::kWidth, kHeld = Team<kWarps>::kHeld, kSize = Team<kWarps>::kSize;
  const int rank = Team<kWarps>::rank();
  float (&z)[kHeld] = held.weight;
  float top = -INFINITY;
  for (int i = 0; i < kHeld / kWidth; ++i) {
    const bool inside = (i * kSize + rank) * kWidth < classes;
    for (uint32_t& word : words[i].at) word = inside ? word : kRuledOut<T>;
    unpack<T>(words[i], z + i * kWidth);
    for (int k = 0; k < kWidth; ++k) top = fmaxf(top, z[i * kWidth + k]);
  }
  for (int offset = kWarp / 2; offset > 0; offset /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, offset));
  top = Team<kWarps>::merged(top, [](float a, float b) { return fmaxf(a, b); });

  float rest = 0.0f;
  static_assert(kHeld <= 32);
  uint32_t largest = 0;  // a bit for each entry
  for (int i = 0; i < kHeld; ++i) {
    const bool is_top = z[i] == top;
    z[i] = hardware_exp(z[i] - top);
    if (is_top) {
      largest |= 1u << i;
    } else {
      rest += z[i];
    }
  }
  for (int offset = kWarp / 2; offset > 0; offset /= 2) rest += __shfl_xor_sync(~0u, rest, offset);
  // A thread's entries have ascending indices.
  const int first = __ffs(static_cast<int>(largest)) - 1;
  const int index = (first / kWidth * kSize + rank) * kWidth + first % kWidth;
  const uint32_t best = warp_min(largest != 0 ? static_cast<uint32_t>(index) : ~0u);
  const Tally tally = Team<kWarps>::merged(
      Tally{rest, warp_sum(static_cast<uint32_t>(__popc(largest))), best},
      [](Tally a, Tally b) { return Tally{a.rest + b.rest, a.tops + b.tops, a.best < b.best ? a.best : b.best}; });
  held.best = tally.best;
  held.rest = tally.rest + (static_cast<float>(tally.tops - 1) + nan_unless_finite(top));
  held.top = top;
}

}  // namespace
}  // namespace cuda
}  // namespace fairtat
