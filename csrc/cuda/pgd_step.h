// What the steps in Linf and L2 share on the GPU: vectors, channels, and what is written beside x_adv.
#pragma once

#include "cuda/launch.h"
#include "math/pgd_step.h"

namespace fairtat {
namespace cuda {

// The launches of each norm; a batch and its samples are not empty.
void linf_steps(const PgdStepArgs& a, cudaStream_t stream);
void l2_steps(const PgdStepArgs& a, cudaStream_t stream);

namespace {

struct Radii {
  float eps, towards;
};

inline __device__ Radii radii_of(const PgdStepArgs& a, int64_t sample) {
  const float step = a.step_n ? a.step_n[sample] : a.step;
  return {a.eps_n ? a.eps_n[sample] : a.eps, a.targeted ? step : -step};
}

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
    for (int k = 0; k < kWidth; ++k) out[k] = safe ? divide_safely(centered[k], of) : centered[k] / of.std;
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
  for (int k = 0; k < kWidth; ++k) store(&input.at[k], value[k]);
  *reinterpret_cast<Vector<Input>*>(static_cast<Input*>(to) + i) = input;
}

// Whether a sample's gradient is zero from element `first` on. The first block of a sample reads on only as long as it
// has seen nothing but zeros: the count needs no atomic and no workspace and, where a gradient is sound, no traffic.
template <typename Grad>
__device__ void count_unmoved(const PgdStepArgs& a, int64_t sample, int64_t first, bool moved) {
  const Grad* grad = static_cast<const Grad*>(a.grad) + sample * a.d;
  int any = __syncthreads_or(moved);
  for (; any == 0 && first < a.d; first += blockDim.x) {
    const int64_t j = first + threadIdx.x;
    any = __syncthreads_or(j < a.d && has_sign(to_float(grad[j])));
  }
  if (any == 0 && threadIdx.x == 0) ++a.zero_grad[sample];
}

inline __device__ void write_model_input(const PgdStepArgs& a, int64_t i, int64_t in_sample, float value) {
  if (a.model_input == nullptr) return;
  if (a.mean != nullptr) {
    // In 32 bits, for which the launch checks: 64-bit integers have no instruction that divides.
    const uint32_t c = static_cast<uint32_t>(in_sample) / static_cast<uint32_t>(a.channel_stride) % static_cast<uint32_t>(a.channels);
    value = normalise(value, a.mean[c], a.std[c]);
  }
  switch (a.input_dtype) {
    case DType::float32: return store(static_cast<float*>(a.model_input) + i, value);
    case DType::bfloat16: return store(static_cast<BFloat16*>(a.model_input) + i, value);
    case DType::float16: return store(static_cast<Float16*>(a.model_input) + i, value);
  }
}

// The sum of a sample's gradient magnitudes, in every thread of the block.
template <typename Grad, int kCount>
__device__ double sum_magnitudes(const Grad* grad, int64_t d) {
  double sum = 0.0;
  for (int64_t j = static_cast<int64_t>(threadIdx.x) * kCount; j < d; j += static_cast<int64_t>(blockDim.x) * kCount) {
    const auto g = load<kCount>(grad + j);
    for (int k = 0; k < kCount; ++k) sum += static_cast<double>(fabsf(finite_gradient(to_float(g.at[k]))));
  }
  return block_sum(sum);
}

inline __device__ void count_zero(const PgdStepArgs& a, int64_t sample, double magnitudes) {
  if (a.zero_grad != nullptr && magnitudes == 0.0 && threadIdx.x == 0) ++a.zero_grad[sample];
}

inline bool aligned(const void* pointer, size_t bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

inline size_t size_of(DType dtype) { return dtype == DType::float32 ? 4 : 2; }

// Whether vectors of four serve: each lies in one sample and is aligned (what torch allocates is, a slice of it need not
// be), and its number and its channel are found in 32 bits.
inline bool is_wide(const PgdStepArgs& a) {
  const bool in_range = a.d % kWidth == 0 && a.d < int64_t{1} << 31 && (a.mean == nullptr || a.channels <= kMaxChannels);
  return in_range && aligned(a.x_adv, sizeof(float) * kWidth) && aligned(a.x, sizeof(float) * kWidth) &&
         aligned(a.grad, size_of(a.grad_dtype) * kWidth) && aligned(a.velocity, sizeof(float) * kWidth) &&
         (a.model_input == nullptr || aligned(a.model_input, size_of(a.input_dtype) * kWidth));
}

inline Channels channels_of(const PgdStepArgs& a) {
  const bool one = a.channel_stride % kWidth == 0;
  const int64_t stride = one ? a.channel_stride / kWidth : a.channel_stride;
  return {Divisor(static_cast<uint32_t>(a.channels)), Divisor(static_cast<uint32_t>(stride)), one};
}

}  // namespace
}  // namespace cuda
}  // namespace fairtat
