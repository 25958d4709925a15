#include "math/pgd_init.h"

#include "cpu/ops.h"
#include "cpu/parallel.h"
#include "cpu/philox_lanes.h"

namespace fairtat {
namespace FAIRTAT_ISA {
namespace {

constexpr int64_t kGroups = 64;  // Philox counters at a time; four elements each
constexpr int64_t kChunk = 4 * kGroups;

// The words of elements [first, first + n), first divisible by 4; a few past the end come with them.
void fill_words(uint32_t* __restrict words, int64_t first, int64_t n, uint32_t stream, uint64_t id, uint64_t seed) {
  static_assert(kGroups % kGroupsAtOnce == 0, "a chunk has whole vectors");
  const uint32_t group = static_cast<uint32_t>(first / 4), groups = static_cast<uint32_t>((n + 3) / 4);
  uint32_t g = 0;
  // A few counters at the end are sooner done one by one than as whole vectors.
  for (; g < groups && (groups - g) * 4 > kGroupsAtOnce; g += kGroupsAtOnce) {
    philox_groups(words + 4 * g, group + g, stream, id, seed);
  }
  for (; g < groups; ++g) {
    const Words w = philox(group + g, stream, id, seed);
    for (int lane = 0; lane < 4; ++lane) words[4 * g + lane] = w.w[lane];
  }
}

void fill_normals(float* __restrict normals, const uint32_t* __restrict words, int64_t n) {
#pragma omp simd
  for (int64_t i = 0; i < (n + 1) / 2; ++i) {
    normal_pair(words[2 * i], words[2 * i + 1], normals + 2 * i, normals + 2 * i + 1);
  }
}

// Calls body(k, offset, stride, count) for runs of elements [first, first + n), in logical order: k is the index
// of the run's first element within [0, n), offset and stride place the run in the sample's memory.
template <typename Body>
void for_runs(const PgdInitArgs& a, int64_t first, int64_t n, Body body) {
  const int last = a.layout.dims - 1;
  for (int64_t k = 0; k < n;) {
    int64_t rest = first + k;
    const int64_t inner = rest % a.layout.sizes[last];
    int64_t offset = inner * a.layout.strides[last];
    rest /= a.layout.sizes[last];
    for (int dim = last - 1; dim >= 0; --dim) {
      offset += rest % a.layout.sizes[dim] * a.layout.strides[dim];
      rest /= a.layout.sizes[dim];
    }
    const int64_t count = min_of(n - k, a.layout.sizes[last] - inner);
    body(k, offset, a.layout.strides[last], count);
    k += count;
  }
}

template <typename Value>
void write_run(float* __restrict out, const float* __restrict x, int64_t stride, int64_t count, Value value) {
  if (stride == 1) {  // its own loop, so that the compiler vectorises it
    for (int64_t i = 0; i < count; ++i) out[i] = value(x[i], i);
  } else {
    for (int64_t i = 0; i < count; ++i) out[i * stride] = value(x[i * stride], i);
  }
}

void zero_sample(const PgdInitArgs& a, float* out, const float* x, int64_t d) {
  for (int64_t i = 0; i < d; ++i) out[i] = clip(x[i], a.lo, a.hi);
}

void linf_sample(const PgdInitArgs& a, float* out, const float* x, int64_t d, float eps, uint64_t id) {
  uint32_t words[kChunk];
  float normals[kChunk];
  for (int64_t first = 0; first < d; first += kChunk) {
    const int64_t n = min_of(kChunk, d - first);
    fill_words(words, first, n, a.stream, id, a.seed);
    if (a.init == Init::normal) fill_normals(normals, words, n);
    for_runs(a, first, n, [&](int64_t k, int64_t offset, int64_t stride, int64_t count) {
      if (a.init == Init::uniform) {
        write_run(out + offset, x + offset, stride, count,
                  [&](float xi, int64_t i) { return start_uniform(xi, words[k + i], eps, a.lo, a.hi); });
      } else {
        write_run(out + offset, x + offset, stride, count,
                  [&](float xi, int64_t i) { return start_normal(xi, normals[k + i], eps, a.lo, a.hi); });
      }
    });
  }
}

void l2_sample(const PgdInitArgs& a, float* out, const float* x, int64_t d, float eps, uint64_t id) {
  uint32_t words[kChunk];
  float normals[kChunk];
  double squares = 0.0;
  for (int64_t first = 0; first < d; first += kChunk) {
    const int64_t n = min_of(kChunk, d - first);
    fill_words(words, first, n, a.stream, id, a.seed);
    fill_normals(normals, words, n);
    for (int64_t i = 0; i < n; ++i) squares += static_cast<double>(normals[i]) * static_cast<double>(normals[i]);
    for_runs(a, first, n, [&](int64_t k, int64_t offset, int64_t stride, int64_t count) {
      for (int64_t i = 0; i < count; ++i) out[offset + i * stride] = normals[k + i];
    });
  }
  const double length = sqrt(squares), radius = static_cast<double>(eps);
  const double scale = a.init == Init::uniform
                           ? l2_uniform_scale(philox(kRadiusPosition, a.stream, id, a.seed).w[0], radius, length,
                                              static_cast<double>(d))
                           : l2_normal_scale(radius, length);
  // `out` holds the direction; the sample is dense, so memory order serves as well as logical order.
  for (int64_t i = 0; i < d; ++i) out[i] = start_l2(x[i], out[i], scale, a.lo, a.hi);
}

// The model's input for `n` neighbors of one channel, or for all where nothing depends on the channel.
template <typename Out, typename Value>
void write_values(Out* __restrict out, const float* __restrict x_adv, int64_t n, Value value) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) store(out + i, value(x_adv[i], i));
}

template <typename Out>
void write_input(const PgdInitArgs& a, Out* out, const float* x_adv, int64_t d) {
  if (a.mean == nullptr) return write_values(out, x_adv, d, [](float v, int64_t) { return v; });
  if (a.channel_stride == 1 && a.channels > 1) {  // a pixel's channels side by side
    for (int64_t first = 0; first < d; first += a.channels) {
      for (int64_t c = 0; c < a.channels; ++c) store(out + first + c, normalise(x_adv[first + c], a.mean[c], a.std[c]));
    }
    return;
  }
  for (int64_t first = 0, run = 0; first < d; first += a.channel_stride, ++run) {
    const float mean = a.mean[run % a.channels], std = a.std[run % a.channels];
    write_values(out + first, x_adv + first, min_of(a.channel_stride, d - first),
                 [=](float v, int64_t) { return normalise(v, mean, std); });
  }
}

void write_input(const PgdInitArgs& a, int64_t sample, int64_t d) {
  if (a.model_input == nullptr) return;
  const float* x_adv = a.out + sample * d;
  switch (a.input_dtype) {
    case DType::float32: return write_input(a, static_cast<float*>(a.model_input) + sample * d, x_adv, d);
    case DType::bfloat16: return write_input(a, static_cast<BFloat16*>(a.model_input) + sample * d, x_adv, d);
    case DType::float16: return write_input(a, static_cast<Float16*>(a.model_input) + sample * d, x_adv, d);
  }
}

// The sample's images as floats, made from bytes where they come so; the cache still holds them for the start.
const float* floats_of(const PgdInitArgs& a, int64_t sample, int64_t d) {
  if (a.pixels == nullptr) return static_cast<const float*>(a.x) + sample * d;
  float* const pixels = a.pixels + sample * d;
  const uint8_t* const bytes = static_cast<const uint8_t*>(a.x) + sample * d;
#pragma omp simd
  for (int64_t i = 0; i < d; ++i) pixels[i] = pixel_of(bytes[i]);
  return pixels;
}

}  // namespace

void pgd_init(const PgdInitArgs& a) {
  int64_t d = 1;
  for (int dim = 0; dim < a.layout.dims; ++dim) d *= a.layout.sizes[dim];
  if (a.n == 0 || d == 0) return;
  const int team = team_size(a.threads, a.n * d, a.n);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
  for (int64_t s = 0; s < a.n; ++s) {
    float* out = a.out + s * d;
    const float* x = floats_of(a, s, d);
    const float eps = a.eps_n ? a.eps_n[s] : a.eps;
    const uint64_t id = static_cast<uint64_t>(a.sample_ids ? a.sample_ids[s] : s);
    if (a.init == Init::zero) {
      zero_sample(a, out, x, d);
    } else if (a.norm == Norm::linf) {
      linf_sample(a, out, x, d, eps, id);
    } else {
      l2_sample(a, out, x, d, eps, id);
    }
    write_input(a, s, d);
  }
}

}  // namespace FAIRTAT_ISA
}  // namespace fairtat
