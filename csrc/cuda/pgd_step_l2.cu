#include "cuda/pgd_step.h"

namespace fairtat {
namespace cuda {
namespace {

__device__ void write_input_vector(const PgdStepArgs& a, const Channels& channels, const Statistics* statistics, int64_t i,
                                   uint32_t vector, float (&value)[kWidth]) {
  if (a.model_input == nullptr) return;
  if (a.mean != nullptr) {
    float plain[kWidth];
    for (int k = 0; k < kWidth; ++k) plain[k] = value[k];
    normalise_vector(channels, statistics, vector, plain, value);
  }
  switch (a.input_dtype) {
    case DType::float32: return store_vector<float>(a.model_input, i, value);
    case DType::bfloat16: return store_vector<BFloat16>(a.model_input, i, value);
    case DType::float16: return store_vector<Float16>(a.model_input, i, value);
  }
}

__device__ void write_l2(const PgdStepArgs& a, int64_t sample, int64_t in_sample, float moved_to) {
  a.x_adv[sample * a.d + in_sample] = moved_to;
  write_model_input(a, sample * a.d + in_sample, in_sample, moved_to);
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

// Blocks of a multiprocessor for which l2_held_kernel finds its registers: 80 are enough but on sm_100.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ / 100 == 10
constexpr int kHeldBlocks = 2;
#else
constexpr int kHeldBlocks = kFullBlocks * 3 / 8;
#endif

// A block for each sample, which it holds in registers, kHeld vectors a thread: one read of x_adv, grad and x, all of
// whose loads are in flight at once, and one write.
template <typename Grad, int kHeld, int kBlock>
__global__ void __launch_bounds__(kBlock, kBlock == kThreads ? kHeldBlocks : 1)
    l2_held_kernel(PgdStepArgs a, Channels channels) {
  __shared__ Statistics statistics[kMaxChannels];
  const uint32_t c = threadIdx.x, vectors = static_cast<uint32_t>(a.d) / kWidth;
  const int64_t sample = blockIdx.x, base = sample * a.d;
  const Grad* grad = static_cast<const Grad*>(a.grad) + base;
  const bool fetches = a.mean != nullptr && c < static_cast<uint32_t>(a.channels);
  const float mean = fetches ? a.mean[c] : 0.0f, std = fetches ? a.std[c] : 0.0f;
  // What lies beyond the sample reads its beginning and counts as zero: no load waits for a branch.
  Vector<float> x_adv[kHeld], x[kHeld];
  Vector<Grad> loaded[kHeld];
#pragma unroll
  for (int h = 0; h < kHeld; ++h) {
    const uint32_t vector = h * kBlock + c, j = (vector < vectors ? vector : 0) * kWidth;
    loaded[h] = load(grad + j);
    x_adv[h] = load(a.x_adv + base + j);
    x[h] = load(a.x + base + j);
  }
  const Radii r = radii_of(a, sample);
  if (fetches) statistics[c] = statistics_of(mean, std, a.lo, a.hi);

  float g[kHeld][kWidth];
  double squares = 0.0;
  uint32_t signs = 0;
#pragma unroll
  for (int h = 0; h < kHeld; ++h) {
    const bool inside = h * kBlock + c < vectors;
    for (int k = 0; k < kWidth; ++k) {
      const float value = inside ? to_float(loaded[h].at[k]) : 0.0f;
      signs |= bits_of(sign_of(value));
      g[h][k] = finite_gradient(value);
      squares += static_cast<double>(g[h][k]) * static_cast<double>(g[h][k]);
    }
  }
  const double gradient_squares = block_sum(squares);
  const L2Scale scale = l2_scale(gradient_squares, r.towards);
  double length = 0.0;
#pragma unroll
  for (int h = 0; h < kHeld; ++h) {
    const bool inside = h * kBlock + c < vectors;
    for (int k = 0; k < kWidth; ++k) {
      // From here on an offset.
      g[h][k] = inside ? l2_offset(x_adv[h].at[k], g[h][k], x[h].at[k], scale) : 0.0f;
      length += static_cast<double>(g[h][k]) * static_cast<double>(g[h][k]);
    }
  }
  length = block_sum(length);
  if (l2_is_extreme(scale, r.towards, length, r.eps)) {
    const bool moved = l2_sample_in_double(a, sample, grad, r, l2_norm(gradient_squares));
    if (a.zero_grad != nullptr) count_unmoved<Grad>(a, sample, a.d, moved);
    return;
  }
  const float shrink = l2_shrink(length, r.eps);
#pragma unroll
  for (int h = 0; h < kHeld; ++h) {
    const uint32_t vector = h * kBlock + c;
    if (vector >= vectors) continue;
    Vector<float> out;
    for (int k = 0; k < kWidth; ++k) out.at[k] = l2_project(g[h][k], shrink, x[h].at[k], a.lo, a.hi);
    *reinterpret_cast<Vector<float>*>(a.x_adv + base + static_cast<int64_t>(vector) * kWidth) = out;
    write_input_vector(a, channels, statistics, base + static_cast<int64_t>(vector) * kWidth, vector, out.at);
  }
  if (a.zero_grad != nullptr) count_unmoved<Grad>(a, sample, a.d, signs != 0);
}

// A block's part of a sample that no block holds; threads move kCount elements at a time.
template <int kCount>
struct Part {
  int64_t begin, end;
  static constexpr int kRounds = kL2Part / kThreads / kCount;

  __device__ Part(int64_t d) : begin(blockIdx.x * kL2Part), end(begin + kL2Part < d ? begin + kL2Part : d) {}
  // Of a round; what lies beyond the part reads its beginning and counts for nothing: no load waits for a branch.
  __device__ int64_t element(int round) const { return begin + (static_cast<int64_t>(round) * kThreads + threadIdx.x) * kCount; }
};

// The first of two launches, for the sums of each part.
template <typename Grad, int kCount>
__global__ void __launch_bounds__(kThreads) l2_sums_kernel(PgdStepArgs a) {
  const int64_t sample = sample_of_block();
  if (sample >= a.n) return;
  const Grad* grad = static_cast<const Grad*>(a.grad) + sample * a.d;
  const float* x_adv = a.x_adv + sample * a.d;
  const float* x = a.x + sample * a.d;
  const Part<kCount> part(a.d);
  L2Sums sums = {0.0, 0.0, 0.0};
#pragma unroll 4
  for (int round = 0; round < Part<kCount>::kRounds; ++round) {
    const int64_t j = part.element(round), from = j < part.end ? j : part.begin;
    const auto g = load<kCount>(grad + from);
    const auto at = load<kCount>(x_adv + from), center = load<kCount>(x + from);
    if (j >= part.end) continue;
    for (int k = 0; k < kCount; ++k) {
      const double slope = static_cast<double>(finite_gradient(to_float(g.at[k])));
      const double offset = static_cast<double>(at.at[k] - center.at[k]);
      sums.gradient += slope * slope;
      sums.across += offset * slope;
      sums.offset += offset * offset;
    }
  }
  sums = {block_sum(sums.gradient), block_sum(sums.across), block_sum(sums.offset)};
  if (threadIdx.x == 0) reinterpret_cast<L2Sums*>(a.sums)[sample * gridDim.x + blockIdx.x] = sums;
}

// The second: each block adds up the sums of its sample, in one order, and steps its part. The
// second bound lets the compiler take more registers: without it, the kernel spills on sm_86 and sm_89.
template <typename Grad, int kCount>
__global__ void __launch_bounds__(kThreads, 1) l2_part_kernel(PgdStepArgs a, Channels channels) {
  __shared__ Statistics statistics[kMaxChannels];
  const int64_t sample = sample_of_block();
  if (sample >= a.n) return;
  if (kCount == kWidth && a.mean != nullptr && threadIdx.x < static_cast<uint32_t>(a.channels)) {
    statistics[threadIdx.x] = statistics_of(a.mean[threadIdx.x], a.std[threadIdx.x], a.lo, a.hi);  // ahead of the barriers below
  }
  const Grad* grad = static_cast<const Grad*>(a.grad) + sample * a.d;
  const Radii r = radii_of(a, sample);
  const L2Sums* of_parts = reinterpret_cast<const L2Sums*>(a.sums) + sample * gridDim.x;
  L2Sums sums = {0.0, 0.0, 0.0};
  for (unsigned p = threadIdx.x; p < gridDim.x; p += kThreads) {
    sums.gradient += of_parts[p].gradient;
    sums.across += of_parts[p].across;
    sums.offset += of_parts[p].offset;
  }
  sums = {block_sum(sums.gradient), block_sum(sums.across), block_sum(sums.offset)};
  // The square of the smallest float is a normal double: the sum is zero only if every element is.
  if (a.zero_grad != nullptr && sums.gradient == 0.0 && blockIdx.x == 0 && threadIdx.x == 0) ++a.zero_grad[sample];

  const L2Scale scale = l2_scale(sums.gradient, r.towards);
  const double norm = l2_norm(sums.gradient), step = static_cast<double>(r.towards) / norm;
  const double length = l2_length_squares(sums, step);
  if (l2_is_extreme(scale, r.towards, length, r.eps)) {
    if (blockIdx.x == 0) l2_sample_in_double(a, sample, grad, r, norm);
    return;
  }
  const float shrink = l2_shrink(length, r.eps);
  float* x_adv = a.x_adv + sample * a.d;
  const float* x = a.x + sample * a.d;
  const Part<kCount> part(a.d);
  if constexpr (kCount == 1) {
    for (int64_t j = part.begin + threadIdx.x; j < part.end; j += kThreads) {
      write_l2(a, sample, j, l2_project(l2_offset(x_adv[j], to_float(grad[j]), x[j], scale), shrink, x[j], a.lo, a.hi));
    }
  } else {
#pragma unroll 2
    for (int round = 0; round < Part<kCount>::kRounds; ++round) {
      const int64_t j = part.element(round), from = j < part.end ? j : part.begin;
      const auto g = load<kCount>(grad + from);
      const auto at = load<kCount>(x_adv + from), center = load<kCount>(x + from);
      if (j >= part.end) continue;
      Vector<float> out;
      for (int k = 0; k < kCount; ++k) {
        out.at[k] = l2_project(l2_offset(at.at[k], to_float(g.at[k]), center.at[k], scale), shrink, center.at[k], a.lo, a.hi);
      }
      *reinterpret_cast<Vector<float>*>(x_adv + j) = out;
      write_input_vector(a, channels, statistics, sample * a.d + j, static_cast<uint32_t>(j) / kWidth, out.at);
    }
  }
}

// Three passes over a sample that no block holds, or that cannot move as vectors. Whether this thread has seen a nonzero element of the gradient.
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
    const bool moved = l2_sample(a, s, static_cast<const Grad*>(a.grad) + s * a.d);
    if (a.zero_grad != nullptr) count_unmoved<Grad>(a, s, a.d, moved);
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

template <typename Grad, int kCount>
void launch_parts(const PgdStepArgs& a, const Channels& channels, cudaStream_t stream) {
  const dim3 grid = sample_grid(a.n, l2_parts(a.d) * kThreads);
  l2_sums_kernel<Grad, kCount><<<grid, kThreads, 0, stream>>>(a);
  l2_part_kernel<Grad, kCount><<<grid, kThreads, 0, stream>>>(a, channels);
}

template <typename Grad>
void launch(const PgdStepArgs& a, cudaStream_t stream) {
  constexpr int kHeld = 3, kMost = 4, kLarge = 512;
  const int64_t vectors = a.d / kWidth;
  const unsigned samples = static_cast<unsigned>(a.n);
  if (a.velocity != nullptr) {
    l2_momentum_kernel<Grad><<<grid_for(a.n, 1), kThreads, 0, stream>>>(a);
    return;
  }
  static_assert(kMost * kLarge * kWidth == kL2Part);
  if (a.sums != nullptr && l2_parts(a.d) > 0) {
    return is_wide(a) ? launch_parts<Grad, kWidth>(a, channels_of(a), stream)
                      : launch_parts<Grad, 1>(a, Channels{Divisor(1), Divisor(1), true}, stream);
  }
  if (!is_wide(a) || vectors > kMost * kLarge || a.n > INT32_MAX) {
    l2_kernel<Grad><<<grid_for(a.n, 1), kThreads, 0, stream>>>(a);
    return;
  }
  const Channels channels = channels_of(a);
  if (vectors <= kThreads) {
    l2_held_kernel<Grad, 1, kThreads><<<samples, kThreads, 0, stream>>>(a, channels);
  } else if (vectors <= kHeld * kThreads) {
    l2_held_kernel<Grad, kHeld, kThreads><<<samples, kThreads, 0, stream>>>(a, channels);
  } else {
    l2_held_kernel<Grad, kMost, kLarge><<<samples, kLarge, 0, stream>>>(a, channels);
  }
}

}  // namespace

void l2_steps(const PgdStepArgs& a, cudaStream_t stream) {
  with_type(a.grad_dtype, [&](auto grad) { launch<decltype(grad)>(a, stream); });
}

}  // namespace cuda
}  // namespace fairtat
