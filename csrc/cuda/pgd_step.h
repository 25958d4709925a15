// What the steps in Linf and L2 share on the GPU: radii, counts, and what is written beside x_adv.
#pragma once

#include "cuda/vectors.h"

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

// Whether vectors of four serve: each lies in one sample and is aligned (what torch allocates is, a slice of it need not
// be), and its number and its channel are found in 32 bits.
inline bool is_wide(const PgdStepArgs& a) {
  const bool in_range = a.d % kWidth == 0 && a.d < int64_t{1} << 31 && (a.mean == nullptr || a.channels <= kMaxChannels);
  return in_range && aligned(a.x_adv, sizeof(float) * kWidth) && aligned(a.x, sizeof(float) * kWidth) &&
         aligned(a.grad, size_of(a.grad_dtype) * kWidth) && aligned(a.velocity, sizeof(float) * kWidth) &&
         (a.model_input == nullptr || aligned(a.model_input, size_of(a.input_dtype) * kWidth));
}

}  // namespace
}  // namespace cuda
}  // namespace fairtat
