#include "cuda/vectors.h"
#include "math/pgd_init.h"

namespace fairtat {
namespace cuda {
namespace {

// Where logical element e of a sample lies in the sample's memory.
__device__ int64_t offset_of(const PgdInitArgs& a, int64_t e) {
  int64_t offset = 0;
  for (int dim = a.layout.dims - 1; dim > 0; --dim) {
    offset += e % a.layout.sizes[dim] * a.layout.strides[dim];
    e /= a.layout.sizes[dim];
  }
  return offset + e * a.layout.strides[0];
}

__device__ uint64_t id_of(const PgdInitArgs& a, int64_t sample) {
  return static_cast<uint64_t>(a.sample_ids ? a.sample_ids[sample] : sample);
}

__device__ float eps_of(const PgdInitArgs& a, int64_t sample) { return a.eps_n ? a.eps_n[sample] : a.eps; }

// The pixel at `at` of the batch's memory, made from a byte where images come so.
__device__ float pixel_at(const PgdInitArgs& a, int64_t at) {
  if (a.pixels == nullptr) return static_cast<const float*>(a.x)[at];
  return a.pixels[at] = pixel_of(static_cast<const uint8_t*>(a.x)[at]);
}

// Stores a start, and the model's input from it. Samples have whole channels, so the place in the batch tells the channel.
__device__ void write_start(const PgdInitArgs& a, int64_t at, float start) {
  a.out[at] = start;
  if (a.model_input == nullptr) return;
  if (a.mean != nullptr) {
    const int64_t c = at / a.channel_stride % a.channels;
    start = normalise(start, a.mean[c], a.std[c]);
  }
  switch (a.input_dtype) {
    case DType::float32: store(static_cast<float*>(a.model_input) + at, start); break;
    case DType::bfloat16: store(static_cast<BFloat16*>(a.model_input) + at, start); break;
    case DType::float16: store(static_cast<Float16*>(a.model_input) + at, start); break;
  }
}

// Elements [4*group, 4*group + 4) of a sample share one Philox counter.
__device__ void normals_of(const PgdInitArgs& a, int64_t group, uint64_t id, float (&normals)[4]) {
  const Words words = philox(static_cast<uint32_t>(group), a.stream, id, a.seed);
  normal_pair(words.w[0], words.w[1], &normals[0], &normals[1]);
  normal_pair(words.w[2], words.w[3], &normals[2], &normals[3]);
}

__global__ void linf_kernel(PgdInitArgs a, int64_t d) {
  const int64_t groups = (d + 3) / 4;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t g = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; g < a.n * groups; g += stride) {
    const int64_t sample = g / groups, group = g - sample * groups;
    const uint64_t id = id_of(a, sample);
    const float eps = eps_of(a, sample);
    Words words{};
    float normals[4] = {};
    if (a.init == Init::uniform) words = philox(static_cast<uint32_t>(group), a.stream, id, a.seed);
    if (a.init == Init::normal) normals_of(a, group, id, normals);
#pragma unroll  // so that words and normals stay in registers
    for (int lane = 0; lane < 4; ++lane) {
      if (group * 4 + lane >= d) break;
      const int64_t at = sample * d + offset_of(a, group * 4 + lane);
      const float x = pixel_at(a, at);
      if (a.init == Init::uniform) {
        write_start(a, at, start_uniform(x, words.w[lane], eps, a.lo, a.hi));
      } else if (a.init == Init::normal) {
        write_start(a, at, start_normal(x, normals[lane], eps, a.lo, a.hi));
      } else {
        write_start(a, at, clip(x, a.lo, a.hi));
      }
    }
  }
}

template <Init kInit>
__device__ float start_of(const PgdInitArgs& a, float x, uint32_t word, float normal, float eps) {
  if (kInit == Init::uniform) return start_uniform(x, word, eps, a.lo, a.hi);
  if (kInit == Init::normal) return start_normal(x, normal, eps, a.lo, a.hi);
  return clip(x, a.lo, a.hi);
}

__device__ Vector<float> in_pixels(const Vector<float>& x) { return x; }

__device__ Vector<float> in_pixels(const Vector<uint8_t>& bytes) {
  Vector<float> x;
  for (int k = 0; k < kWidth; ++k) x.at[k] = pixel_of(bytes.at[k]);
  return x;
}

// Two standard normal numbers by the hardware's functions, within 7e-4: near 1 the logarithm is off by 2**-22 and a root
// makes that more; sine and cosine are within 2**-20. A start, of which they are thousandths, is then within 1e-6.
__device__ void hardware_normal_pair(uint32_t word_a, uint32_t word_b, float* first, float* second) {
#if defined(__CUDA_ARCH__)
  float log2, radius, sine, cosine;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(log2) : "f"(positive_uniform(word_a)));
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(radius) : "f"(fmaxf(log2 * -1.3862943611198906f, 0.0f)));
  // The turn of word_b from -1/2 to 1/2, where the functions are at their best.
  const float angle = static_cast<float>(static_cast<int32_t>(word_b) >> 8) * 0x1.921fb6p-22f;
  asm("sin.approx.ftz.f32 %0, %1;" : "=f"(sine) : "f"(angle));
  asm("cos.approx.ftz.f32 %0, %1;" : "=f"(cosine) : "f"(angle));
  *first = radius * cosine;
  *second = radius * sine;
#else
  normal_pair(word_a, word_b, first, second);
#endif
}

// Images in whole vectors. A thread makes the groups of four elements of its items. On contiguous images an item is a
// group, which is a vector (kPlanes 1), and a thread has two, which share the cost of what comes before the first; in
// channels_last an item is the groups of the same four pixels in each of three planes, three vectors in a row (kPlanes 3).
template <int kPlanes>
constexpr int kItems = kPlanes == 1 ? 2 : 1;

template <Init kInit, typename Source, typename Input, bool kNormalised, int kPlanes>
__global__ void linf_vector_kernel(PgdInitArgs a, PhiloxKeys keys, Channels channels, uint32_t items) {
  __shared__ Statistics statistics[kNormalised ? kMaxChannels : 1];
  const uint32_t sample = sample_of_block(), first = blockIdx.x * (kThreads * kItems<kPlanes>) + threadIdx.x;
  if (sample >= static_cast<uint32_t>(a.n)) return;  // a grid has fewer than 2**32 rows
  const int64_t begin = (static_cast<int64_t>(sample) * items + first) * (kPlanes * kWidth);  // of the first item
  constexpr int kStride = kThreads * kPlanes * kWidth;                                        // from an item to the next
  Vector<float> x[kItems<kPlanes>][kPlanes] = {};
  for (int i = 0; i < kItems<kPlanes>; ++i) {
    for (int p = 0; p < kPlanes; ++p) {
      const int64_t at = begin + i * kStride + p * kWidth;
      if (first + i * kThreads < items) x[i][p] = in_pixels(load(static_cast<const Source*>(a.x) + at));
    }
  }
  const uint64_t id = id_of(a, sample);
  const float eps = eps_of(a, sample);
  if (kNormalised) {
    const uint32_t c = threadIdx.x;
    if (c < static_cast<uint32_t>(a.channels)) statistics[c] = statistics_of(a.mean[c], a.std[c], a.lo, a.hi);
    __syncthreads();
  }
#pragma unroll  // so that images stay in registers
  for (int i = 0; i < kItems<kPlanes>; ++i) {
    const uint32_t item = first + i * kThreads;
    if (item >= items) return;
    Vector<float> start[kPlanes];
    for (int p = 0; p < kPlanes; ++p) {
      Words words{};
      float normals[kWidth] = {};
      if (kInit != Init::zero) words = philox(p * items + item, a.stream, id, keys);
      if (kInit == Init::normal) {
        hardware_normal_pair(words.w[0], words.w[1], &normals[0], &normals[1]);
        hardware_normal_pair(words.w[2], words.w[3], &normals[2], &normals[3]);
      }
      for (int k = 0; k < kWidth; ++k) {
        const int e = k * kPlanes + p;
        const float pixel = x[i][e / kWidth].at[e % kWidth];
        start[e / kWidth].at[e % kWidth] = start_of<kInit>(a, pixel, words.w[k], normals[k], eps);
      }
    }
    for (int p = 0; p < kPlanes; ++p) {
      const int64_t at = begin + i * kStride + p * kWidth;
      if constexpr (sizeof(Source) == 1) *reinterpret_cast<Vector<float>*>(a.pixels + at) = x[i][p];
      *reinterpret_cast<Vector<float>*>(a.out + at) = start[p];
      if constexpr (InputOf<Input>::kWritten) {
        if constexpr (kNormalised) normalise_vector(channels, statistics, item * kPlanes + p, start[p].at, start[p].at);
        store_vector<Input>(a.model_input, at, start[p].at);
      }
    }
  }
}

template <Init kInit, int kPlanes, typename Source, typename Input>
void launch_planes(const PgdInitArgs& a, int64_t items, cudaStream_t stream) {
  constexpr bool kNormalised = InputOf<Input>::kWritten;
  const dim3 grid = sample_grid(a.n, (items + kItems<kPlanes> - 1) / kItems<kPlanes>);
  const uint32_t count = static_cast<uint32_t>(items);
  const Channels channels = channels_of(a);
  const PhiloxKeys keys = philox_keys(a.seed);
  if (kNormalised && a.mean != nullptr) {
    linf_vector_kernel<kInit, Source, Input, kNormalised, kPlanes><<<grid, kThreads, 0, stream>>>(a, keys, channels, count);
  } else {
    linf_vector_kernel<kInit, Source, Input, false, kPlanes><<<grid, kThreads, 0, stream>>>(a, keys, channels, count);
  }
}

template <Init kInit, int kPlanes, typename Source>
void launch_to(const PgdInitArgs& a, int64_t items, cudaStream_t stream) {
  if (a.model_input == nullptr) return launch_planes<kInit, kPlanes, Source, NoInput>(a, items, stream);
  with_type(a.input_dtype, [&](auto input) { launch_planes<kInit, kPlanes, Source, decltype(input)>(a, items, stream); });
}

template <Init kInit, int kPlanes>
void launch_from(const PgdInitArgs& a, int64_t items, cudaStream_t stream) {
  if (a.pixels == nullptr) return launch_to<kInit, kPlanes, float>(a, items, stream);
  launch_to<kInit, kPlanes, uint8_t>(a, items, stream);
}

template <int kPlanes>
void launch_vectors(const PgdInitArgs& a, int64_t items, cudaStream_t stream) {
  switch (a.init) {
    case Init::uniform: return launch_from<Init::uniform, kPlanes>(a, items, stream);
    case Init::normal: return launch_from<Init::normal, kPlanes>(a, items, stream);
    case Init::zero: return launch_from<Init::zero, kPlanes>(a, items, stream);
  }
}

// How many planes a thread of linf_vector_kernel makes; 0: these images are not for it.
int planes_of(const PgdInitArgs& a, int64_t d) {
  const bool fits = d < int64_t{1} << 31 && (a.mean == nullptr || a.channels <= kMaxChannels);
  const size_t bytes = a.pixels == nullptr ? sizeof(float) : sizeof(uint8_t);
  const bool in_vectors = aligned(a.x, bytes * kWidth) && aligned(a.pixels, sizeof(float) * kWidth) &&
                          aligned(a.out, sizeof(float) * kWidth) && aligned(a.model_input, size_of(a.input_dtype) * kWidth);
  if (!fits || !in_vectors) return 0;
  const Layout& layout = a.layout;
  if (layout.dims == 1 && layout.strides[0] == 1) return d % kWidth == 0 ? 1 : 0;
  const bool last = layout.dims == 2 && layout.sizes[0] == 3 && layout.strides[0] == 1 && layout.strides[1] == 3;
  return last && layout.sizes[1] % kWidth == 0 ? 3 : 0;
}

// A block for each sample: the length of its direction comes first.
__global__ void l2_kernel(PgdInitArgs a, int64_t d) {
  const int64_t groups = (d + 3) / 4;
  for (int64_t s = blockIdx.x; s < a.n; s += gridDim.x) {
    const uint64_t id = id_of(a, s);
    const double radius = static_cast<double>(eps_of(a, s));
    double squares = 0.0;
    for (int64_t group = threadIdx.x; group < groups; group += blockDim.x) {
      float normals[4];
      normals_of(a, group, id, normals);
      for (int lane = 0; lane < 4 && group * 4 + lane < d; ++lane) {
        squares += static_cast<double>(normals[lane]) * static_cast<double>(normals[lane]);
      }
    }
    const double length = sqrt(block_sum(squares));
    const double scale = a.init == Init::uniform
                             ? l2_uniform_scale(philox(kRadiusPosition, a.stream, id, a.seed).w[0], radius, length,
                                                static_cast<double>(d))
                             : l2_normal_scale(radius, length);
    for (int64_t group = threadIdx.x; group < groups; group += blockDim.x) {
      float normals[4];
      normals_of(a, group, id, normals);
      for (int lane = 0; lane < 4 && group * 4 + lane < d; ++lane) {
        const int64_t at = s * d + offset_of(a, group * 4 + lane);
        write_start(a, at, start_l2(pixel_at(a, at), normals[lane], scale, a.lo, a.hi));
      }
    }
  }
}

}  // namespace

void pgd_init(const PgdInitArgs& a, Place place) {
  int64_t d = 1;
  for (int dim = 0; dim < a.layout.dims; ++dim) d *= a.layout.sizes[dim];
  if (a.n == 0 || d == 0) return;
  launch_on(place, "pgd_init", [&](cudaStream_t stream) {
    if (a.norm == Norm::linf || a.init == Init::zero) {
      switch (planes_of(a, d)) {
        case 1: return launch_vectors<1>(a, d / kWidth, stream);
        case 3: return launch_vectors<3>(a, d / kWidth / 3, stream);
        default: linf_kernel<<<grid_for(a.n * ((d + 3) / 4)), kThreads, 0, stream>>>(a, d);
      }
    } else {
      l2_kernel<<<grid_for(a.n, 1), kThreads, 0, stream>>>(a, d);
    }
  });
}

}  // namespace cuda
}  // namespace fairtat
