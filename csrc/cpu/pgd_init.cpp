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
  const int64_t groups = (n + 3) / 4;
  for (int64_t g = 0; g < groups; g += kGroupsAtOnce) {
    philox_groups(words + 4 * g, static_cast<uint32_t>(first / 4 + g), stream, id, seed);
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

}  // namespace

void pgd_init(const PgdInitArgs& a) {
  int64_t d = 1;
  for (int dim = 0; dim < a.layout.dims; ++dim) d *= a.layout.sizes[dim];
  if (a.n == 0 || d == 0) return;
  const int team = team_size(a.threads, a.n * d, a.n);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
  for (int64_t s = 0; s < a.n; ++s) {
    float* out = a.out + s * d;
    const float* x = a.x + s * d;
    const float eps = a.eps_n ? a.eps_n[s] : a.eps;
    const uint64_t id = static_cast<uint64_t>(a.sample_ids ? a.sample_ids[s] : s);
    if (a.init == Init::zero) {
      zero_sample(a, out, x, d);
    } else if (a.norm == Norm::linf) {
      linf_sample(a, out, x, d, eps, id);
    } else {
      l2_sample(a, out, x, d, eps, id);
    }
  }
}

}  // namespace FAIRTAT_ISA
}  // namespace fairtat
