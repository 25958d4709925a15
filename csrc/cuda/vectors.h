// Images in vectors of four, a sample for each row of the grid: what pgd_step and pgd_init share on the GPU.
#pragma once

#include "cuda/launch.h"
#include "math/pgd_step.h"

namespace fairtat {
namespace cuda {
namespace {

constexpr int kWidth = 4;         // elements that a thread moves: one access of 16 bytes where they are float32
constexpr int kMaxChannels = 64;  // whose statistics a block keeps in shared memory

template <typename T, int kCount = kWidth>
struct alignas(sizeof(T) * kCount) Vector {
  T at[kCount];
};

template <int kCount = kWidth, typename T>
__device__ Vector<T, kCount> load(const T* from) {
  return *reinterpret_cast<const Vector<T, kCount>*>(from);
}

// n / divisor for n < 2**31 by one multiplication: the multiplier is 2**32 (2**shift / divisor - 1), rounded up
// (Granlund and Montgomery, PLDI 1994).
struct Divisor {
  uint32_t divisor, multiplier, shift;

  explicit Divisor(uint32_t by) : divisor(by), multiplier(0), shift(0) {
    while ((uint64_t{1} << shift) < by) ++shift;
    multiplier = static_cast<uint32_t>((((uint64_t{1} << shift) - by) << 32) / by + 1);
  }
  __device__ uint32_t quotient(uint32_t n) const { return (__umulhi(n, multiplier) + n) >> shift; }
  __device__ uint32_t remainder(uint32_t n) const { return n - quotient(n) * divisor; }
};

// Which channel the elements of a sample have: i / stride % channels for element i.
struct Channels {
  Divisor channels;
  Divisor stride;  // in vectors where a vector has one channel, else in elements
  bool one;        // each vector has one channel
};

// The channel is found once a vector; only where a vector has several does each element look up its own.
inline __device__ void normalise_vector(const Channels& channels, const Statistics* statistics, uint32_t vector,
                                        const float (&value)[kWidth], float (&out)[kWidth]) {
  if (channels.one) {
    const Statistics of = statistics[channels.channels.remainder(channels.stride.quotient(vector))];
    float centered[kWidth];
    bool safe = true;
    for (int k = 0; k < kWidth; ++k) {
      centered[k] = value[k] - of.mean;
      safe &= division_is_safe(centered[k], of);
    }
    if (safe) {
      for (int k = 0; k < kWidth; ++k) out[k] = divide_safely(centered[k], of);
    } else {
      for (int k = 0; k < kWidth; ++k) out[k] = centered[k] / of.std;
    }
    return;
  }
  const uint32_t first = vector * kWidth, row = channels.stride.quotient(first);
  uint32_t channel = channels.channels.remainder(row), in_row = first - row * channels.stride.divisor;
  for (int k = 0; k < kWidth; ++k) {
    const Statistics of = statistics[channel];
    const float centered = value[k] - of.mean;
    out[k] = division_is_safe(centered, of) ? divide_safely(centered, of) : centered / of.std;
    if (++in_row == channels.stride.divisor) {
      in_row = 0;
      channel = channel + 1 == channels.channels.divisor ? 0 : channel + 1;
    }
  }
}

template <typename Input>
__device__ void store_vector(void* to, int64_t i, const float (&value)[kWidth]) {
  Vector<Input> input;
  for (int k = 0; k < kWidth; k += 2) store_two(&input.at[k], value[k], value[k + 1]);
  *reinterpret_cast<Vector<Input>*>(static_cast<Input*>(to) + i) = input;
}

struct NoInput {};

template <typename Input>
struct InputOf {
  static constexpr bool kWritten = true;
};
template <>
struct InputOf<NoInput> {
  static constexpr bool kWritten = false;
};

inline __device__ uint32_t sample_of_block() { return blockIdx.z * gridDim.y + blockIdx.y; }

// Blocks for the items of a sample in x, samples in y and, beyond what fits there, in z.
inline dim3 sample_grid(int64_t n, int64_t items) {
  constexpr int64_t kMostRows = 65535;
  const int64_t rows = n < kMostRows ? n : kMostRows;
  return dim3(static_cast<unsigned>((items + kThreads - 1) / kThreads), static_cast<unsigned>(rows),
              static_cast<unsigned>((n + rows - 1) / rows));
}

inline bool aligned(const void* pointer, size_t bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

inline size_t size_of(DType dtype) { return dtype == DType::float32 ? 4 : 2; }

template <typename Args>
Channels channels_of(const Args& a) {
  const bool one = a.channel_stride % kWidth == 0;
  const int64_t stride = one ? a.channel_stride / kWidth : a.channel_stride;
  return {Divisor(static_cast<uint32_t>(a.channels)), Divisor(static_cast<uint32_t>(stride)), one};
}

}  // namespace
}  // namespace cuda
}  // namespace fairtat
