#include "cuda/launch.h"
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

// The usual images: contiguous floats in whole groups of four, of which nothing but the start is made. A group is one
// 128-bit access, and a block stays within a sample, so that the one division is of 32 bits and comes before all else.
template <Init kInit>
__global__ void linf_vector_kernel(PgdInitArgs a, uint32_t groups, uint32_t blocks_a_sample) {
  const uint32_t sample = blockIdx.x / blocks_a_sample, block = blockIdx.x - sample * blocks_a_sample;
  const uint32_t group = block * kThreads + threadIdx.x;
  if (group >= groups) return;
  const int64_t at = static_cast<int64_t>(sample) * groups + group;
  const float4 x = static_cast<const float4*>(a.x)[at];
  const uint64_t id = id_of(a, sample);
  const float eps = eps_of(a, sample);
  Words words{};
  float normals[4] = {};
  if (kInit == Init::uniform) words = philox(group, a.stream, id, a.seed);
  if (kInit == Init::normal) normals_of(a, group, id, normals);
  const float4 start = {start_of<kInit>(a, x.x, words.w[0], normals[0], eps),
                        start_of<kInit>(a, x.y, words.w[1], normals[1], eps),
                        start_of<kInit>(a, x.z, words.w[2], normals[2], eps),
                        start_of<kInit>(a, x.w, words.w[3], normals[3], eps)};
  reinterpret_cast<float4*>(a.out)[at] = start;
}

bool is_aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % sizeof(float4) == 0; }

// Whether it was launched: the images must be those that the kernel is for.
bool launch_vectors(const PgdInitArgs& a, int64_t d, cudaStream_t stream) {
  const int64_t groups = d / 4, blocks_a_sample = (groups + kThreads - 1) / kThreads;
  const bool fits = a.n * blocks_a_sample <= INT32_MAX && groups <= INT32_MAX;
  const bool plain = a.pixels == nullptr && a.model_input == nullptr && is_aligned(a.x) && is_aligned(a.out);
  if (!plain || !fits || d % 4 != 0 || a.layout.dims != 1 || a.layout.strides[0] != 1) return false;
  const unsigned grid = static_cast<unsigned>(a.n * blocks_a_sample);
  const uint32_t g = static_cast<uint32_t>(groups), b = static_cast<uint32_t>(blocks_a_sample);
  switch (a.init) {
    case Init::uniform: linf_vector_kernel<Init::uniform><<<grid, kThreads, 0, stream>>>(a, g, b); break;
    case Init::normal: linf_vector_kernel<Init::normal><<<grid, kThreads, 0, stream>>>(a, g, b); break;
    case Init::zero: linf_vector_kernel<Init::zero><<<grid, kThreads, 0, stream>>>(a, g, b); break;
  }
  return true;
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
      if (!launch_vectors(a, d, stream)) linf_kernel<<<grid_for(a.n * ((d + 3) / 4)), kThreads, 0, stream>>>(a, d);
    } else {
      l2_kernel<<<grid_for(a.n, 1), kThreads, 0, stream>>>(a, d);
    }
  });
}

}  // namespace cuda
}  // namespace fairtat
