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

struct NoInput {};

template <typename Input>
struct InputOf {
  static constexpr bool kWritten = true;
};
template <>
struct InputOf<NoInput> {
  static constexpr bool kWritten = false;
};

// The channel is found once a vector; only where a vector has several does each element look up its own.
__device__ void normalise_vector(const Channels& channels, const Statistics* statistics, uint32_t vector,
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

__device__ uint32_t sample_of_block() { return blockIdx.z * gridDim.y + blockIdx.y; }

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
    if (fetches) statistics[c] = statistics_of(mean, std);
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

__device__ void write_model_input(const PgdStepArgs& a, int64_t i, int64_t in_sample, float value) {
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

__device__ void count_zero(const PgdStepArgs& a, int64_t sample, double magnitudes) {
  if (a.zero_grad != nullptr && magnitudes == 0.0 && threadIdx.x == 0) ++a.zero_grad[sample];
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
  if (fetches) statistics[c] = statistics_of(mean, std);

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

bool aligned(const void* pointer, size_t bytes) { return reinterpret_cast<uintptr_t>(pointer) % bytes == 0; }

size_t size_of(DType dtype) { return dtype == DType::float32 ? 4 : 2; }

// Whether vectors of four serve: each lies in one sample and is aligned (what torch allocates is, a slice of it need not
// be), and its number and its channel are found in 32 bits.
bool is_wide(const PgdStepArgs& a) {
  const bool in_range = a.d % kWidth == 0 && a.d < int64_t{1} << 31 && (a.mean == nullptr || a.channels <= kMaxChannels);
  return in_range && aligned(a.x_adv, sizeof(float) * kWidth) && aligned(a.x, sizeof(float) * kWidth) &&
         aligned(a.grad, size_of(a.grad_dtype) * kWidth) && aligned(a.velocity, sizeof(float) * kWidth) &&
         (a.model_input == nullptr || aligned(a.model_input, size_of(a.input_dtype) * kWidth));
}

Channels channels_of(const PgdStepArgs& a) {
  const bool one = a.channel_stride % kWidth == 0;
  const int64_t stride = one ? a.channel_stride / kWidth : a.channel_stride;
  return {Divisor(static_cast<uint32_t>(a.channels)), Divisor(static_cast<uint32_t>(stride)), one};
}

// Blocks for the items of a sample in x, samples in y and, beyond what fits there, in z.
dim3 sample_grid(int64_t n, int64_t items) {
  constexpr int64_t kMostRows = 65535;
  const int64_t rows = n < kMostRows ? n : kMostRows;
  return dim3(static_cast<unsigned>((items + kThreads - 1) / kThreads), static_cast<unsigned>(rows),
              static_cast<unsigned>((n + rows - 1) / rows));
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
void launch_l2(const PgdStepArgs& a, cudaStream_t stream) {
  constexpr int kHeld = 3, kMost = 4, kLarge = 512;
  const int64_t vectors = a.d / kWidth;
  const unsigned samples = static_cast<unsigned>(a.n);
  if (a.velocity != nullptr) {
    l2_momentum_kernel<Grad><<<grid_for(a.n, 1), kThreads, 0, stream>>>(a);
    return;
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

template <typename Grad>
void launch(const PgdStepArgs& a, cudaStream_t stream) {
  if (a.norm == Norm::l2) return launch_l2<Grad>(a, stream);
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
    switch (a.input_dtype) {
      case DType::float32: return launch_wide<Grad, float>(a, stream);
      case DType::bfloat16: return launch_wide<Grad, BFloat16>(a, stream);
      case DType::float16: return launch_wide<Grad, Float16>(a, stream);
    }
  }
}

}  // namespace

void pgd_step(const PgdStepArgs& a, Place place) {
  if (a.norm == Norm::l1) throw std::invalid_argument("pgd_step: no CUDA kernel for l1");
  if (a.n == 0 || a.d == 0) return;
  if (a.mean != nullptr && a.d > UINT32_MAX) throw std::runtime_error("pgd_step: mean and std need samples below 2**32 elements");
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
