// A row of logits that a warp holds in registers: one read, whose loads are all in flight at once.
#pragma once

#include "cuda/launch.h"
#include "math/logit_loss.h"

namespace fairtat {
namespace cuda {
namespace {

constexpr int kShortRow = 8, kHeldRow = 32;  // entries that a thread holds

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

// What a warp knows of a row; top, rest and best are the same in each of its threads.
template <int kHeld>
struct HeldRow {
  float weight[kHeld];  // exp(z - top) of the thread's entries
  float top;            // the largest logit, NaN apart
  float rest;           // the sum of all weights but the first of the largest, for log1p; NaN where there is no softmax
  int64_t best;         // the first of the largest, unless rest is NaN
};

inline bool is_aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

// Whether warps can hold the rows: they are short, and each begins where a vector may.
template <typename T>
bool is_held(const void* logits, int64_t classes) {
  return classes <= kHeldRow * kWarp && classes % Vector<T>::kWidth == 0 && is_aligned(logits);
}

// What lies beyond the row reads its beginning: no load waits for a branch.
template <typename T, int kHeld>
__device__ void load_row(const T* row, int classes, Words16 (&words)[kHeld / Vector<T>::kWidth]) {
  constexpr int kWidth = Vector<T>::kWidth, kVectors = kHeld / kWidth;
  const int lane = threadIdx.x % kWarp;
  for (int i = 0; i < kVectors; ++i) {
    const int j = (i * kWarp + lane) * kWidth;
    words[i] = *reinterpret_cast<const Words16*>(row + (j < classes ? j : 0));
  }
}

template <typename T, int kHeld>
__device__ void weigh_row(Words16 (&words)[kHeld / Vector<T>::kWidth], int classes, HeldRow<kHeld>& held) {
  constexpr int kWidth = Vector<T>::kWidth, kVectors = kHeld / kWidth;
  const int lane = threadIdx.x % kWarp;
  float (&z)[kHeld] = held.weight;
  float top = -INFINITY;
  for (int i = 0; i < kVectors; ++i) {
    const bool inside = (i * kWarp + lane) * kWidth < classes;
    for (uint32_t& word : words[i].at) word = inside ? word : kRuledOut<T>;
    Vector<T> entries;
    memcpy(&entries, &words[i], sizeof entries);
    for (int k = 0; k < kWidth; ++k) {
      z[i * kWidth + k] = to_float(entries.at[k]);
      top = fmaxf(top, z[i * kWidth + k]);
    }
  }
  for (int offset = kWarp / 2; offset > 0; offset /= 2) top = fmaxf(top, __shfl_xor_sync(~0u, top, offset));

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
  const int index = (first / kWidth * kWarp + lane) * kWidth + first % kWidth;
  held.best = warp_min(largest != 0 ? static_cast<uint32_t>(index) : ~0u);
  held.rest = rest + (static_cast<float>(warp_sum(static_cast<uint32_t>(__popc(largest))) - 1) + nan_unless_finite(top));
  held.top = top;
}

}  // namespace
}  // namespace cuda
}  // namespace fairtat
