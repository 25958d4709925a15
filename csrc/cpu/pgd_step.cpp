#include "math/pgd_step.h"

#include <cstdlib>

#include "cpu/ops.h"
#include "cpu/parallel.h"

namespace fairtat {
namespace FAIRTAT_ISA {
namespace {

// Elements of x_adv, grad and x that are worked on while they are in the first-level cache, so that writing
// the model input from x_adv costs no second pass over memory.
constexpr int64_t kBlock = 2048;

constexpr int kL1Halvings = 60;  // to the last bits of a double, far below those of the float that is stored

template <typename Grad>
void linf_block(float* __restrict x_adv, const Grad* __restrict grad, const float* __restrict x, int64_t n, float eps,
                float towards, float lo, float hi) {
  for (int64_t i = 0; i < n; ++i) {
    x_adv[i] = linf_step(x_adv[i], to_float(grad[i]), x[i], eps, towards, lo, hi);
  }
}

template <typename Grad>
bool any_sign(const Grad* grad, int64_t n) {
  bool any = false;
  for (int64_t i = 0; i < n; ++i) any |= has_sign(to_float(grad[i]));
  return any;
}

// A sum in fixed lanes: the same order, and so the same bits, on every instruction set. `Sum` is the type of the terms
// and lanes; blocks are added up in double, so that float lanes stay exact enough for long samples.
template <typename Sum, typename Term>
double sum_of(int64_t n, Term term) {
  constexpr int64_t kLanes = 16;
  double total = 0.0;
  for (int64_t begin = 0; begin < n; begin += kBlock) {
    const int64_t end = min_of(n, begin + kBlock);
    Sum lanes[kLanes] = {};
    int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes) {
#pragma omp simd
      for (int64_t k = 0; k < kLanes; ++k) lanes[k] += term(i + k);
    }
    for (; i < end; ++i) lanes[i % kLanes] += term(i);
    for (int64_t k = 0; k < kLanes; ++k) total += static_cast<double>(lanes[k]);
  }
  return total;
}

template <typename Sum, typename Value>
double sum_squares(int64_t n, Value at) {
  return sum_of<Sum>(n, [=](int64_t i) {
    const Sum value = static_cast<Sum>(at(i));
    return value * value;
  });
}

template <typename Grad>
double sum_magnitudes(const Grad* grad, int64_t n) {
  return sum_of<double>(n, [=](int64_t i) { return static_cast<double>(fabsf(finite_gradient(to_float(grad[i])))); });
}

template <typename Grad>
void velocity_block(float* __restrict velocity, const Grad* __restrict grad, int64_t n, float momentum, float norm) {
  for (int64_t i = 0; i < n; ++i) velocity[i] = next_velocity(velocity[i], to_float(grad[i]), momentum, norm);
}

template <typename Grad>
void l2_sample_in_double(float* __restrict x_adv, const Grad* __restrict grad, const float* __restrict x, int64_t n,
                         float eps, float towards, double norm, float lo, float hi) {
  const auto offset = [=](int64_t i) {
    return l2_offset_in_double(x_adv[i], to_float(grad[i]), x[i], towards, norm);
  };
  const double shrink = l2_shrink_in_double(sum_squares<double>(n, offset), eps);
  for (int64_t i = 0; i < n; ++i) x_adv[i] = l2_project_in_double(offset(i), shrink, x[i], lo, hi);
}

template <typename Grad>
void l2_sample(float* __restrict x_adv, const Grad* __restrict grad, const float* __restrict x, int64_t n, float eps,
               float towards, float lo, float hi) {
  const double squares = sum_squares<double>(n, [=](int64_t i) { return finite_gradient(to_float(grad[i])); });
  const L2Scale scale = l2_scale(squares, towards);
  const double length = sum_squares<float>(n, [=](int64_t i) {
    return l2_offset(x_adv[i], to_float(grad[i]), x[i], scale);
  });
  if (l2_is_extreme(scale, towards, length, eps)) {
    return l2_sample_in_double(x_adv, grad, x, n, eps, towards, l2_norm(squares), lo, hi);
  }
  const float shrink = l2_shrink(length, eps);
  for (int64_t i = 0; i < n; ++i) {
    x_adv[i] = l2_project(l2_offset(x_adv[i], to_float(grad[i]), x[i], scale), shrink, x[i], lo, hi);
  }
}

// The k-th largest gradient magnitude, as the bits of a float, which are in its order: one bit after another.
template <typename Grad>
uint32_t kth_magnitude(const Grad* grad, int64_t n, int64_t k) {
  uint32_t found = 0;
  for (uint32_t bit = 1u << 30; bit != 0; bit >>= 1) {
    const uint32_t candidate = found | bit;
    int64_t count = 0;
    for (int64_t i = 0; i < n; ++i) count += bits_of(fabsf(finite_gradient(to_float(grad[i])))) >= candidate;
    if (count >= k) found = candidate;
  }
  return found;
}

// The offsets after a step that moves the `kept` largest elements of the gradient alike (and those that equal the
// smallest of them), brought to the nearest point that is in the ball and the bounds: each gives up the same `cut`.
// `work` has room for two rows.
template <typename Grad>
void l1_sample(float* __restrict x_adv, const Grad* __restrict grad, const float* __restrict x, int64_t n, int64_t kept,
               float eps, float towards, float lo, float hi, double* __restrict work) {
  double *offset = work, *room = work + n;
  const uint32_t least = kth_magnitude(grad, n, kept);
  const auto sign = [=](int64_t i) {
    const float g = finite_gradient(to_float(grad[i]));
    const bool moves = bits_of(fabsf(g)) >= least;
    return moves ? static_cast<double>(g > 0.0f) - static_cast<double>(g < 0.0f) : 0.0;
  };
  double moving = 0.0, largest = 0.0;
  for (int64_t i = 0; i < n; ++i) moving += sign(i) != 0.0;
  const double step = moving > 0.0 ? static_cast<double>(towards) / moving : 0.0;
  for (int64_t i = 0; i < n; ++i) {
    const double center = static_cast<double>(x[i]);
    offset[i] = static_cast<double>(x_adv[i]) - step * sign(i) - center;
    const double most = offset[i] > 0.0 ? static_cast<double>(hi) - center : center - static_cast<double>(lo);
    room[i] = most > 0.0 ? most : 0.0;
    largest = fabs(offset[i]) > largest ? fabs(offset[i]) : largest;
  }
  const auto length = [=](double cut) {
    return sum_of<double>(n, [=](int64_t i) { return l1_left(fabs(offset[i]), room[i], cut); });
  };
  // NaN for the whole sample where a pixel is not finite.
  const double total = sum_of<double>(n, [=](int64_t i) { return fabs(offset[i]); });
  const double poison = total - total;
  const double radius = static_cast<double>(eps);
  double cut = 0.0;
  if (length(0.0) > radius) {
    double below = 0.0;
    cut = largest;
    for (int halving = 0; halving < kL1Halvings; ++halving) {
      const double middle = 0.5 * (below + cut);
      (length(middle) > radius ? below : cut) = middle;
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    const double left = l1_left(fabs(offset[i]), room[i], cut);
    const double moved = static_cast<double>(x[i]) + (offset[i] < 0.0 ? -left : left) + poison;
    x_adv[i] = clip(static_cast<float>(moved), lo, hi);
  }
}

template <typename Out>
void cast_run(const float* x_adv, Out* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) store(out + i, x_adv[i]);
}

template <typename Out>
void normalise_run(const float* x_adv, Out* out, int64_t n, float mean, float std) {
  for (int64_t i = 0; i < n; ++i) store(out + i, normalise(x_adv[i], mean, std));
}

// Channels innermost: their values repeat along memory, a few at a time.
template <typename Out>
void normalise_interleaved(const PgdStepArgs& a, const float* x_adv, Out* out, int64_t first, int64_t n) {
  constexpr int64_t kPattern = 1024;
  float mean[kPattern], std[kPattern];
  if (a.channels > kPattern) {
    for (int64_t i = 0; i < n; ++i) {
      const int64_t c = (first + i) % a.channels;
      store(out + i, normalise(x_adv[i], a.mean[c], a.std[c]));
    }
    return;
  }
  const int64_t period = kPattern / a.channels * a.channels;
  const int64_t filled = min_of(period, n);
  int64_t c = first % a.channels;
  for (int64_t i = 0; i < filled; ++i) {
    mean[i] = a.mean[c];
    std[i] = a.std[c];
    c = c + 1 == a.channels ? 0 : c + 1;
  }
  for (int64_t start = 0; start < n; start += period) {
    const int64_t count = min_of(period, n - start);
    for (int64_t i = 0; i < count; ++i) store(out + start + i, normalise(x_adv[start + i], mean[i], std[i]));
  }
}

// Elements [first, first + n) of a sample that starts at `sample`.
template <typename Out>
void write_input(const PgdStepArgs& a, int64_t sample, int64_t first, int64_t n) {
  const float* x_adv = a.x_adv + sample + first;
  Out* out = static_cast<Out*>(a.model_input) + sample + first;
  if (a.mean == nullptr) {
    cast_run(x_adv, out, n);
  } else if (a.channel_stride == 1 && a.channels > 1) {
    normalise_interleaved(a, x_adv, out, first, n);
  } else {
    for (int64_t i = 0; i < n;) {
      const int64_t run = (first + i) / a.channel_stride;
      const int64_t count = min_of(n - i, (run + 1) * a.channel_stride - first - i);
      const int64_t c = run % a.channels;
      normalise_run(x_adv + i, out + i, count, a.mean[c], a.std[c]);
      i += count;
    }
  }
}

void write_model_input(const PgdStepArgs& a, int64_t sample, int64_t first, int64_t n) {
  if (a.model_input == nullptr) return;
  switch (a.input_dtype) {
    case DType::float32: return write_input<float>(a, sample, first, n);
    case DType::bfloat16: return write_input<BFloat16>(a, sample, first, n);
    case DType::float16: return write_input<Float16>(a, sample, first, n);
  }
}

struct Radii {
  float eps, towards;
};

Radii radii_of(const PgdStepArgs& a, int64_t sample) {
  const float step = a.step_n ? a.step_n[sample] : a.step;
  return {a.eps_n ? a.eps_n[sample] : a.eps, a.targeted ? step : -step};
}

// Elements [begin, end) of the whole batch. With one radius for all and nothing counted or normalised by
// sample, the caller passes d = n*d: the batch is then one long sample.
template <typename Grad>
void linf_range(const PgdStepArgs& a, int64_t d, int64_t begin, int64_t end, uint8_t* moved) {
  const Grad* grad = static_cast<const Grad*>(a.grad);
  for (int64_t i = begin; i < end;) {
    const int64_t sample = i / d;
    const int64_t first = i - sample * d;
    const int64_t count = min_of(min_of(end - i, d - first), kBlock);
    const Radii r = radii_of(a, sample);
    linf_block(a.x_adv + i, grad + i, a.x + i, count, r.eps, r.towards, a.lo, a.hi);
    // Threads that share a sample write the same value, so a relaxed store suffices.
    if (moved != nullptr && any_sign(grad + i, count)) __atomic_store_n(moved + sample, uint8_t{1}, __ATOMIC_RELAXED);
    write_model_input(a, sample * d, first, count);
    i += count;
  }
}

template <typename Grad>
void linf(const PgdStepArgs& a, uint8_t* moved) {
  const int64_t total = a.n * a.d;
  const bool by_sample = a.eps_n || a.step_n || moved || (a.model_input && a.mean);
  const int64_t d = by_sample ? a.d : total;
  const int team = team_size(a.threads, total, total / kBlock);
  if (team == 1) return linf_range<Grad>(a, d, 0, total, moved);
  // Equal parts in whole cache lines.
  const int64_t part = (total / team + 15) / 16 * 16;
#pragma omp parallel for num_threads(team) schedule(static, 1)
  for (int t = 0; t < team; ++t) {
    linf_range<Grad>(a, d, min_of(total, t * part), t + 1 == team ? total : min_of(total, (t + 1) * part), moved);
  }
}

template <typename Grad>
void l2(const PgdStepArgs& a, uint8_t* moved) {
  const int team = team_size(a.threads, a.n * a.d, a.n);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
  for (int64_t s = 0; s < a.n; ++s) {
    const int64_t at = s * a.d;
    const Grad* grad = static_cast<const Grad*>(a.grad) + at;
    const Radii r = radii_of(a, s);
    if (moved != nullptr) moved[s] = any_sign(grad, a.d);
    l2_sample(a.x_adv + at, grad, a.x + at, a.d, r.eps, r.towards, a.lo, a.hi);
    write_model_input(a, at, 0, a.d);
  }
}

template <typename Grad>
void l1(const PgdStepArgs& a, uint8_t* moved) {
  const int team = team_size(a.threads, a.n * a.d, a.n);
#pragma omp parallel num_threads(team) if (team > 1)
  {
    double* work = static_cast<double*>(malloc(static_cast<size_t>(2 * a.d) * sizeof(double)));
#pragma omp for schedule(static)
    for (int64_t s = 0; s < a.n; ++s) {
      const int64_t at = s * a.d;
      const Grad* grad = static_cast<const Grad*>(a.grad) + at;
      const Radii r = radii_of(a, s);
      if (moved != nullptr) moved[s] = any_sign(grad, a.d);
      const float* along = a.velocity;
      if (along == nullptr) {
        l1_sample(a.x_adv + at, grad, a.x + at, a.d, a.kept, r.eps, r.towards, a.lo, a.hi, work);
      } else {
        velocity_block(a.velocity + at, grad, a.d, a.momentum, l1_norm(sum_magnitudes(grad, a.d)));
        l1_sample(a.x_adv + at, along + at, a.x + at, a.d, a.kept, r.eps, r.towards, a.lo, a.hi, work);
      }
      write_model_input(a, at, 0, a.d);
    }
    free(work);
  }
}

// One sample along its velocity. In Linf, a block of it is updated and used while it is in the first-level cache.
template <typename Grad>
void momentum_sample(const PgdStepArgs& a, int64_t sample, uint8_t* moved) {
  const int64_t at = sample * a.d;
  const Grad* grad = static_cast<const Grad*>(a.grad) + at;
  float* velocity = a.velocity + at;
  const Radii r = radii_of(a, sample);
  const double magnitudes = sum_magnitudes(grad, a.d);
  const float norm = l1_norm(magnitudes);
  if (moved != nullptr) moved[sample] = magnitudes != 0.0;
  if (a.norm == Norm::l2) {
    velocity_block(velocity, grad, a.d, a.momentum, norm);
    l2_sample(a.x_adv + at, velocity, a.x + at, a.d, r.eps, r.towards, a.lo, a.hi);
    return write_model_input(a, at, 0, a.d);
  }
  for (int64_t i = 0; i < a.d; i += kBlock) {
    const int64_t count = min_of(a.d - i, kBlock);
    velocity_block(velocity + i, grad + i, count, a.momentum, norm);
    linf_block(a.x_adv + at + i, velocity + i, a.x + at + i, count, r.eps, r.towards, a.lo, a.hi);
    write_model_input(a, at, i, count);
  }
}

template <typename Grad>
void with_momentum(const PgdStepArgs& a, uint8_t* moved) {
  const int team = team_size(a.threads, a.n * a.d, a.n);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
  for (int64_t s = 0; s < a.n; ++s) momentum_sample<Grad>(a, s, moved);
}

template <typename Grad>
void step(const PgdStepArgs& a, uint8_t* moved) {
  if (a.norm == Norm::l1) {
    l1<Grad>(a, moved);
  } else if (a.velocity != nullptr) {
    with_momentum<Grad>(a, moved);
  } else if (a.norm == Norm::linf) {
    linf<Grad>(a, moved);
  } else {
    l2<Grad>(a, moved);
  }
}

}  // namespace

void pgd_step(const PgdStepArgs& a) {
  if (a.n == 0 || a.d == 0) return;
  uint8_t* moved = nullptr;  // (N,): the sample's gradient has a nonzero element
  if (a.zero_grad != nullptr) moved = static_cast<uint8_t*>(calloc(static_cast<size_t>(a.n), 1));
  switch (a.grad_dtype) {
    case DType::float32: step<float>(a, moved); break;
    case DType::bfloat16: step<BFloat16>(a, moved); break;
    case DType::float16: step<Float16>(a, moved); break;
  }
  if (moved != nullptr) {
    for (int64_t s = 0; s < a.n; ++s) a.zero_grad[s] += moved[s] == 0;
    free(moved);
  }
}

}  // namespace FAIRTAT_ISA
}  // namespace fairtat
