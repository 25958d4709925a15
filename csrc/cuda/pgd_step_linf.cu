#include "cuda/pgd_step.h"

namespace fairtat {
namespace cuda {
namespace {

// A vector for each thread, a sample for each row of the grid: one read of x_adv, grad and x, one write of x_adv and one
// of the model's input.
template <typename Grad, typename Input, bool kNormalised>
__global__ void __launch_bounds__(kThreads, kNormalised && kFullBlocks > 6 ? 6 : kFullBlocks) linf_kernel(PgdStepArgs a, Channels channels) {
  __shared__ Statistics statistics[kNormalised ? kMaxChannels : 1];
  const uint32_t sample = sample_of_block();
  if (sample >= a.n) return;
  // The block's first threads fetch a channel each, all of them their vectors: one wait for memory.
  const uint32_t c = threadIdx.x, vector = blockIdx.x * kThreads + c, in_sample = vector * kWidth;
  const bool fetches = kNormalised && c < static_cast<uint32_t>(a.channels);
  const float mean = fetches ? a.mean[c] : 0.0f, std = fetches ? a.std[c] : 0.0f;
  const bool inside = in_sample < static_cast<uint32_t>(a.d);
  const int64_t i = static_cast<int64_t>(sample) * static_cast<uint32_t>(a.d) + in_sample;
  Vector<float> x_adv{}, x{};
  Vector<Grad> grad{};
  if (inside) {
    x_adv = load(a.x_adv + i);
    grad = load(static_cast<const Grad*>(a.grad) + i);
    x = load(a.x + i);
  }
  const Radii r = radii_of(a, sample);
  if (kNormalised) {
    if (fetches) statistics[c] = statistics_of(mean, std, a.lo, a.hi);
    __syncthreads();
  }
  uint32_t signs = 0;
  if (inside) {
    Vector<float> out;
    for (int k = 0; k < kWidth; ++k) {
      const float g = to_float(grad.at[k]);
      out.at[k] = linf_step(x_adv.at[k], g, x.at[k], r.eps, r.towards, a.lo, a.hi);
      signs |= bits_of(sign_of(g));
    }
    *reinterpret_cast<Vector<float>*>(a.x_adv + i) = out;
    if constexpr (InputOf<Input>::kWritten) {
      if constexpr (kNormalised) normalise_vector(channels, statistics, vector, out.at, x.at);
      store_vector<Input>(a.model_input, i, kNormalised ? x.at : out.at);
    }
  }
  if (a.zero_grad != nullptr && blockIdx.x == 0) count_unmoved<Grad>(a, sample, int64_t{kThreads} * kWidth, signs != 0);
}

// An element for each thread, for what cannot move as vectors: samples whose length is not a multiple of four, memory that
// is not aligned, more channels than a block keeps.
template <typename Grad>
__global__ void linf_scalar_kernel(PgdStepArgs a) {
  const int64_t sample = sample_of_block();
  if (sample >= a.n) return;
  const int64_t in_sample = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x, i = sample * a.d + in_sample;
  bool moved = false;
  if (in_sample < a.d) {
    const Radii r = radii_of(a, sample);
    const float g = to_float(static_cast<const Grad*>(a.grad)[i]);
    const float out = linf_step(a.x_adv[i], g, a.x[i], r.eps, r.towards, a.lo, a.hi);
    moved = has_sign(g);
    a.x_adv[i] = out;
    write_model_input(a, i, in_sample, out);
  }
  if (a.zero_grad != nullptr && blockIdx.x == 0) count_unmoved<Grad>(a, sample, kThreads, moved);
}

// A block for each sample: its gradient's norm, then one pass that moves velocity and image. The gradient comes from
// the cache the second time.
template <typename Grad, int kCount>
__global__ void linf_momentum_kernel(PgdStepArgs a) {
  for (int64_t s = blockIdx.x; s < a.n; s += gridDim.x) {
    const Grad* grads = static_cast<const Grad*>(a.grad) + s * a.d;
    const double magnitudes = sum_magnitudes<Grad, kCount>(grads, a.d);
    const float norm = l1_norm(magnitudes);
    const Radii r = radii_of(a, s);
    count_zero(a, s, magnitudes);
    for (int64_t j = static_cast<int64_t>(threadIdx.x) * kCount; j < a.d; j += static_cast<int64_t>(blockDim.x) * kCount) {
      const int64_t i = s * a.d + j;
      const auto grad = load<kCount>(grads + j);
      const auto x_adv = load<kCount>(a.x_adv + i);
      const auto x = load<kCount>(a.x + i);
      auto velocity = load<kCount>(a.velocity + i);
      Vector<float, kCount> out;
      for (int k = 0; k < kCount; ++k) {
        velocity.at[k] = next_velocity(velocity.at[k], to_float(grad.at[k]), a.momentum, norm);
        out.at[k] = linf_step(x_adv.at[k], velocity.at[k], x.at[k], r.eps, r.towards, a.lo, a.hi);
      }
      *reinterpret_cast<Vector<float, kCount>*>(a.velocity + i) = velocity;
      *reinterpret_cast<Vector<float, kCount>*>(a.x_adv + i) = out;
      for (int k = 0; k < kCount; ++k) write_model_input(a, i + k, j + k, out.at[k]);
    }
  }
}

template <typename Grad, typename Input>
void launch_wide(const PgdStepArgs& a, cudaStream_t stream) {
  constexpr bool kNormalised = InputOf<Input>::kWritten;
  const dim3 grid = sample_grid(a.n, a.d / kWidth);
  const Channels channels = channels_of(a);
  if (kNormalised && a.mean != nullptr) {
    linf_kernel<Grad, Input, kNormalised><<<grid, kThreads, 0, stream>>>(a, channels);
  } else {
    linf_kernel<Grad, Input, false><<<grid, kThreads, 0, stream>>>(a, channels);
  }
}

template <typename Grad>
void launch(const PgdStepArgs& a, cudaStream_t stream) {
  const bool wide = is_wide(a);
  if (a.velocity != nullptr) {
    if (wide) {
      linf_momentum_kernel<Grad, kWidth><<<grid_for(a.n, 1), kThreads, 0, stream>>>(a);
    } else {
      linf_momentum_kernel<Grad, 1><<<grid_for(a.n, 1), kThreads, 0, stream>>>(a);
    }
  } else if (!wide) {
    linf_scalar_kernel<Grad><<<sample_grid(a.n, a.d), kThreads, 0, stream>>>(a);
  } else if (a.model_input == nullptr) {
    launch_wide<Grad, NoInput>(a, stream);
  } else {
    with_type(a.input_dtype, [&](auto input) { launch_wide<Grad, decltype(input)>(a, stream); });
  }
}

}  // namespace

void linf_steps(const PgdStepArgs& a, cudaStream_t stream) {
  with_type(a.grad_dtype, [&](auto grad) { launch<decltype(grad)>(a, stream); });
}

}  // namespace cuda
}  // namespace fairtat
