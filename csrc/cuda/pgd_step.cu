#include "cuda/launch.h"
#include "math/pgd_step.h"

namespace fairtat {
namespace cuda {
namespace {

struct Radii {
  float eps, towards;
};

__device__ Radii radii_of(const PgdStepArgs& a, int64_t sample) {
  const float step = a.step_n ? a.step_n[sample] : a.step;
  return {a.eps_n ? a.eps_n[sample] : a.eps, a.targeted ? step : -step};
}

// kWidth elements that move as one access of at most 16 bytes.
template <typename T, int kWidth>
struct alignas(sizeof(T) * kWidth < 16 ? sizeof(T) * kWidth : 16) Vector {
  T at[kWidth];
};

template <typename T, int kWidth>
__device__ Vector<T, kWidth> load(const T* from) {
  return *reinterpret_cast<const Vector<T, kWidth>*>(from);
}

template <typename Out, int kWidth>
__device__ void write_input(const PgdStepArgs& a, int64_t i, int64_t in_sample, const float (&value)[kWidth]) {
  Vector<Out, kWidth> out;
  if (a.mean == nullptr) {
    for (int k = 0; k < kWidth; ++k) store(&out.at[k], value[k]);
  } else {
    for (int k = 0; k < kWidth; ++k) {
      const int64_t c = (in_sample + k) / a.channel_stride % a.channels;
      store(&out.at[k], normalise(value[k], a.mean[c], a.std[c]));
    }
  }
  *reinterpret_cast<Vector<Out, kWidth>*>(static_cast<Out*>(a.model_input) + i) = out;
}

template <int kWidth>
__device__ void write_model_input(const PgdStepArgs& a, int64_t i, int64_t in_sample, const float (&value)[kWidth]) {
  if (a.model_input == nullptr) return;
  switch (a.input_dtype) {
    case DType::float32: return write_input<float>(a, i, in_sample, value);
    case DType::bfloat16: return write_input<BFloat16>(a, i, in_sample, value);
    case DType::float16: return write_input<Float16>(a, i, in_sample, value);
  }
}

// One read of x_adv, grad and x and one write, kWidth elements of one sample at a time. `moved` collects whether the
// gradient has a nonzero element.
template <typename Grad, int kWidth>
__device__ void linf_elements(const PgdStepArgs& a, int64_t i, int64_t sample, int64_t in_sample, bool* moved) {
  const auto x_adv = load<float, kWidth>(a.x_adv + i);
  const auto grad = load<Grad, kWidth>(static_cast<const Grad*>(a.grad) + i);
  const auto x = load<float, kWidth>(a.x + i);
  const Radii r = radii_of(a, sample);
  Vector<float, kWidth> out;
  for (int k = 0; k < kWidth; ++k) {
    const float g = to_float(grad.at[k]);
    out.at[k] = linf_step(x_adv.at[k], g, x.at[k], r.eps, r.towards, a.lo, a.hi);
    *moved |= has_sign(g);
  }
  *reinterpret_cast<Vector<float, kWidth>*>(a.x_adv + i) = out;
  write_model_input<kWidth>(a, i, in_sample, out.at);
}

template <typename Grad, int kWidth>
__global__ void linf_kernel(PgdStepArgs a) {
  const int64_t groups = a.n * a.d / kWidth;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t g = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; g < groups; g += stride) {
    const int64_t i = g * kWidth, sample = i / a.d;
    bool moved = false;
    linf_elements<Grad, kWidth>(a, i, sample, i - sample * a.d, &moved);
  }
}

// `moved`: this thread has seen a nonzero element of the gradient.
__device__ void count_unmoved(const PgdStepArgs& a, int64_t sample, bool moved) {
  if (a.zero_grad != nullptr && __syncthreads_or(moved) == 0 && threadIdx.x == 0) ++a.zero_grad[sample];
}

// A block for each sample: what counts all-zero gradients has to see the whole sample.
template <typename Grad, int kWidth>
__global__ void linf_by_sample_kernel(PgdStepArgs a) {
  for (int64_t s = blockIdx.x; s < a.n; s += gridDim.x) {
    bool moved = false;
    for (int64_t j = static_cast<int64_t>(threadIdx.x) * kWidth; j < a.d; j += static_cast<int64_t>(blockDim.x) * kWidth) {
      linf_elements<Grad, kWidth>(a, s * a.d + j, s, j, &moved);
    }
    count_unmoved(a, s, moved);
  }
}

// The sum of a sample's gradient magnitudes, in every thread of the block.
template <typename Grad, int kWidth>
__device__ double sum_magnitudes(const Grad* grad, int64_t d) {
  double sum = 0.0;
  for (int64_t j = static_cast<int64_t>(threadIdx.x) * kWidth; j < d; j += static_cast<int64_t>(blockDim.x) * kWidth) {
    const auto g = load<Grad, kWidth>(grad + j);
    for (int k = 0; k < kWidth; ++k) sum += static_cast<double>(fabsf(finite_gradient(to_float(g.at[k]))));
  }
  return block_sum(sum);
}

__device__ void count_zero(const PgdStepArgs& a, int64_t sample, double magnitudes) {
  if (a.zero_grad != nullptr && magnitudes == 0.0 && threadIdx.x == 0) ++a.zero_grad[sample];
}

// A block for each sample: its gradient's norm, then one pass that moves velocity and image. The gradient comes from
// the cache the second time.
template <typename Grad, int kWidth>
__global__ void linf_momentum_kernel(PgdStepArgs a) {
  for (int64_t s = blockIdx.x; s < a.n; s += gridDim.x) {
    const Grad* grads = static_cast<const Grad*>(a.grad) + s * a.d;
    const double magnitudes = sum_magnitudes<Grad, kWidth>(grads, a.d);
    const float norm = l1_norm(magnitudes);
    const Radii r = radii_of(a, s);
    count_zero(a, s, magnitudes);
    for (int64_t j = static_cast<int64_t>(threadIdx.x) * kWidth; j < a.d; j += static_cast<int64_t>(blockDim.x) * kWidth) {
      const int64_t i = s * a.d + j;
      const auto grad = load<Grad, kWidth>(grads + j);
      const auto x_adv = load<float, kWidth>(a.x_adv + i);
      const auto x = load<float, kWidth>(a.x + i);
      auto velocity = load<float, kWidth>(a.velocity + i);
      Vector<float, kWidth> out;
      for (int k = 0; k < kWidth; ++k) {
        velocity.at[k] = next_velocity(velocity.at[k], to_float(grad.at[k]), a.momentum, norm);
        out.at[k] = linf_step(x_adv.at[k], velocity.at[k], x.at[k], r.eps, r.towards, a.lo, a.hi);
      }
      *reinterpret_cast<Vector<float, kWidth>*>(a.velocity + i) = velocity;
      *reinterpret_cast<Vector<float, kWidth>*>(a.x_adv + i) = out;
      write_model_input<kWidth>(a, i, j, out.at);
    }
  }
}

__device__ void write_l2(const PgdStepArgs& a, int64_t sample, int64_t in_sample, float moved_to) {
  const float value[1] = {moved_to};
  a.x_adv[sample * a.d + in_sample] = moved_to;
  write_model_input<1>(a, sample * a.d + in_sample, in_sample, value);
}

template <typename Grad>
__device__ bool l2_sample_in_double(const PgdStepArgs& a, int64_t sample, const Grad* grad, Radii r, double norm) {
  const float* x_adv = a.x_adv + sample * a.d;
  const float* x = a.x + sample * a.d;
  double length = 0.0;
  for (int64_t j = threadIdx.x; j < a.d; j += blockDim.x) {
    const double offset = l2_offset_in_double(x_adv[j], to_float(grad[j]), x[j], r.towards, norm);
    length += offset * offset;
  }
  const double shrink = l2_shrink_in_double(block_sum(length), r.eps);
  bool moved = false;
  for (int64_t j = threadIdx.x; j < a.d; j += blockDim.x) {
    const float g = to_float(grad[j]);
    moved |= has_sign(g);
    const double offset = l2_offset_in_double(x_adv[j], g, x[j], r.towards, norm);
    write_l2(a, sample, j, l2_project_in_double(offset, shrink, x[j], a.lo, a.hi));
  }
  return moved;
}

// Whether this thread has seen a nonzero element of the gradient.
template <typename Grad>
__device__ bool l2_sample(const PgdStepArgs& a, int64_t s, const Grad* grad) {
  float* x_adv = a.x_adv + s * a.d;
  const float* x = a.x + s * a.d;
  const Radii r = radii_of(a, s);
  double squares = 0.0;
  for (int64_t j = threadIdx.x; j < a.d; j += blockDim.x) {
    const double g = static_cast<double>(finite_gradient(to_float(grad[j])));
    squares += g * g;
  }
  const double gradient_squares = block_sum(squares);
  const L2Scale scale = l2_scale(gradient_squares, r.towards);
  double length = 0.0;
  for (int64_t j = threadIdx.x; j < a.d; j += blockDim.x) {
    const double offset = static_cast<double>(l2_offset(x_adv[j], to_float(grad[j]), x[j], scale));
    length += offset * offset;
  }
  length = block_sum(length);
  if (l2_is_extreme(scale, r.towards, length, r.eps)) {
    return l2_sample_in_double(a, s, grad, r, l2_norm(gradient_squares));
  }
  const float shrink = l2_shrink(length, r.eps);
  bool moved = false;
  for (int64_t j = threadIdx.x; j < a.d; j += blockDim.x) {
    const float g = to_float(grad[j]);
    moved |= has_sign(g);
    write_l2(a, s, j, l2_project(l2_offset(x_adv[j], g, x[j], scale), shrink, x[j], a.lo, a.hi));
  }
  return moved;
}

template <typename Grad>
__global__ void l2_kernel(PgdStepArgs a) {
  for (int64_t s = blockIdx.x; s < a.n; s += gridDim.x) {
    count_unmoved(a, s, l2_sample(a, s, static_cast<const Grad*>(a.grad) + s * a.d));
  }
}

// A thread reads no element of the velocity but those that it has written.
template <typename Grad>
__global__ void l2_momentum_kernel(PgdStepArgs a) {
  for (int64_t s = blockIdx.x; s < a.n; s += gridDim.x) {
    const Grad* grad = static_cast<const Grad*>(a.grad) + s * a.d;
    float* velocity = a.velocity + s * a.d;
    const double magnitudes = sum_magnitudes<Grad, 1>(grad, a.d);
    const float norm = l1_norm(magnitudes);
    count_zero(a, s, magnitudes);
    for (int64_t j = threadIdx.x; j < a.d; j += blockDim.x) {
      velocity[j] = next_velocity(velocity[j], to_float(grad[j]), a.momentum, norm);
    }
    l2_sample(a, s, static_cast<const float*>(velocity));
  }
}

bool aligned(const void* pointer, size_t bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

template <typename Grad>
void launch(const PgdStepArgs& a, cudaStream_t stream) {
  const unsigned block_a_sample = grid_for(a.n, 1);
  if (a.norm == Norm::l2) {
    if (a.velocity != nullptr) {
      l2_momentum_kernel<Grad><<<block_a_sample, kThreads, 0, stream>>>(a);
    } else {
      l2_kernel<Grad><<<block_a_sample, kThreads, 0, stream>>>(a);
    }
    return;
  }
  constexpr int kWide = 4;
  // A group of four must lie in one sample; what torch allocates is aligned, a slice of it need not be.
  const bool wide = a.d % kWide == 0 && aligned(a.x_adv, 16) && aligned(a.x, 16) && aligned(a.grad, sizeof(Grad) * kWide) &&
                    aligned(a.model_input, 16) && aligned(a.velocity, 16);
  if (a.velocity != nullptr) {
    if (wide) {
      linf_momentum_kernel<Grad, kWide><<<block_a_sample, kThreads, 0, stream>>>(a);
    } else {
      linf_momentum_kernel<Grad, 1><<<block_a_sample, kThreads, 0, stream>>>(a);
    }
  } else if (a.zero_grad != nullptr) {
    if (wide) {
      linf_by_sample_kernel<Grad, kWide><<<block_a_sample, kThreads, 0, stream>>>(a);
    } else {
      linf_by_sample_kernel<Grad, 1><<<block_a_sample, kThreads, 0, stream>>>(a);
    }
  } else if (wide) {
    linf_kernel<Grad, kWide><<<grid_for(a.n * a.d / kWide), kThreads, 0, stream>>>(a);
  } else {
    linf_kernel<Grad, 1><<<grid_for(a.n * a.d), kThreads, 0, stream>>>(a);
  }
}

}  // namespace

void pgd_step(const PgdStepArgs& a, Place place) {
  if (a.norm == Norm::l1) throw std::invalid_argument("pgd_step: no CUDA kernel for l1");
  if (a.n == 0 || a.d == 0) return;
  const DeviceGuard guard(place.device);
  const auto stream = static_cast<cudaStream_t>(place.stream);
  switch (a.grad_dtype) {
    case DType::float32: launch<float>(a, stream); break;
    case DType::bfloat16: launch<BFloat16>(a, stream); break;
    case DType::float16: launch<Float16>(a, stream); break;
  }
  check(cudaGetLastError(), "pgd_step");
}

}  // namespace cuda
}  // namespace fairtat
