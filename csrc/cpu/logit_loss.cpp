#include "math/logit_loss.h"

#include <cstdlib>

#include "cpu/lanes.h"
#include "cpu/ops.h"
#include "cpu/parallel.h"

namespace fairtat {
namespace FAIRTAT_ISA {
namespace {

// A row is worked on in blocks of sixteen: one order of summation on every instruction set, and whole vectors also for
// ten classes. Copies of rows are padded to whole blocks, logits with -inf (so that nothing there is ever largest).
int64_t padded(int64_t classes) { return (classes + kLanes - 1) / kLanes * kLanes; }

template <typename Body>
void for_lanes(int64_t n, Body body) {
  for (int64_t j = 0; j < n; j += kLanes) {
#pragma omp simd
    for (int k = 0; k < kLanes; ++k) body(j + k);
  }
}

template <typename In>
void load_row(float* __restrict row, const void* source, int64_t sample, int64_t classes) {
  const In* in = static_cast<const In*>(source) + sample * classes;
  for (int64_t j = 0; j < classes; ++j) row[j] = to_float(in[j]);
  for (int64_t j = classes; j < padded(classes); ++j) row[j] = -INFINITY;
}

void load(float* row, const void* source, DType dtype, int64_t sample, int64_t classes) {
  switch (dtype) {
    case DType::float32: return load_row<float>(row, source, sample, classes);
    case DType::bfloat16: return load_row<BFloat16>(row, source, sample, classes);
    case DType::float16: return load_row<Float16>(row, source, sample, classes);
  }
}

template <typename Out>
void save_row(void* out, const float* row, int64_t sample, int64_t classes) {
  Out* to = static_cast<Out*>(out) + sample * classes;
  for (int64_t j = 0; j < classes; ++j) store(to + j, row[j]);
}

void save(const LogitLossArgs& a, const float* row, int64_t sample) {
  switch (a.logits_dtype) {
    case DType::float32: return save_row<float>(a.dlogits, row, sample, a.classes);
    case DType::bfloat16: return save_row<BFloat16>(a.dlogits, row, sample, a.classes);
    case DType::float16: return save_row<Float16>(a.dlogits, row, sample, a.classes);
  }
}

// Index of the first largest of n padded values; a NaN counts as largest.
int64_t argmax(const float* z, int64_t n) {
  if (n == kLanes) {  // for few classes the reduction over lanes would cost more than a plain scan
    int64_t at = 0;
    float top = z[0];
    for (int64_t j = 1; j < kLanes; ++j) {
      const bool better = comes_before(z[j], top);
      at = better ? j : at;
      top = better ? z[j] : top;
    }
    return at;
  }
  float best[kLanes];
  for (int k = 0; k < kLanes; ++k) best[k] = z[k];
  for (int64_t j = kLanes; j < n; j += kLanes) {
#pragma omp simd
    for (int k = 0; k < kLanes; ++k) {
      // Keeps a NaN that it meets, as no comparison with one is true.
      best[k] = z[j + k] <= best[k] || best[k] != best[k] ? best[k] : z[j + k];
    }
  }
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int k = 0; k < half; ++k) best[k] = comes_before(best[k + half], best[k]) ? best[k + half] : best[k];
  }
  const float top = best[0];
  const bool nan = top != top;
  int64_t j = 0;
  for (; j + kLanes < n; j += kLanes) {  // skip blocks without it
    int hits = 0;
#pragma omp simd reduction(+ : hits)
    for (int k = 0; k < kLanes; ++k) hits += z[j + k] == top || (nan && z[j + k] != z[j + k]);
    if (hits != 0) break;
  }
  while (j + 1 < n && z[j] != top && !(nan && z[j] != z[j])) ++j;
  return j;
}

// The best class other than `skip`; z is changed meanwhile.
int64_t argmax_other(float* z, int64_t classes, int64_t skip) {
  const float own = z[skip];
  z[skip] = -INFINITY;
  const int64_t best = argmax(z, padded(classes));
  z[skip] = own;
  if (best != skip && best < classes) return best;
  return skip == 0 ? 1 : 0;  // all others are -inf
}

float sum_row(const float* row, int64_t n) {
  float lanes[kLanes] = {};
  for (int64_t j = 0; j < n; j += kLanes) {
#pragma omp simd
    for (int k = 0; k < kLanes; ++k) lanes[k] += row[j + k];
  }
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int k = 0; k < half; ++k) lanes[k] += lanes[k + half];
  }
  return lanes[0];
}

// exp(z - z[best]) into e, with e[best] = 0; returns their sum, so that the normaliser is 1 + sum; NaN where the row
// has no softmax.
float exp_others(float* __restrict e, const float* __restrict z, int64_t n, int64_t best) {
  const float top = z[best];
  for_lanes(n, [=](int64_t j) { e[j] = exp_nonpositive(z[j] - top); });
  e[best] = 0.0f;
  return sum_row(e, n) + nan_unless_finite(top);
}

// dz holds softmax(z) - onehot(t); the target's entry is minus the sum of the others, so that a confident
// sample keeps a gradient where p_t - 1 would round to 0.
float cross_entropy(float* __restrict dz, const float* __restrict z, int64_t n, int64_t best, int64_t target) {
  const float rest = exp_others(dz, z, n, best);
  dz[best] = 1.0f;
  const float scale = 1.0f + rest;
  for_lanes(n, [=](int64_t j) { dz[j] = dz[j] / scale; });
  dz[target] = 0.0f;
  dz[target] = -sum_row(dz, n);
  return log1pf(rest) + (z[best] - z[target]);
}

// sum_j p_j (log p_j - log q_j) with p from the clean logits; dz = q - p. `p` starts as the clean logits.
float divergence(float* __restrict dz, float* __restrict p, const float* __restrict z, float* __restrict terms,
                 int64_t n, int64_t best) {
  const int64_t clean_best = argmax(p, n);
  const float clean_top = p[clean_best], top = z[best];
  const float clean_rest = exp_others(terms, p, n, clean_best);
  terms[clean_best] = 1.0f;
  const float rest = exp_others(dz, z, n, best);
  dz[best] = 1.0f;
  const float log_scales = log1pf(rest) - log1pf(clean_rest);
  for_lanes(n, [=](int64_t j) {
    const float pj = terms[j] / (1.0f + clean_rest);
    dz[j] = dz[j] / (1.0f + rest) - pj;
    terms[j] = divergence_term(p[j], clean_top, z[j], top, pj, log_scales);
  });
  return sum_row(terms, n) + nan_unless_finite(top);
}

// The largest `count` logits in descending order, the lower index first among equals.
void top_indices(const float* z, int64_t classes, int count, int64_t* order) {
  int filled = 0;
  for (int64_t j = 0; j < classes; ++j) {
    if (filled == count && z[j] <= z[order[count - 1]]) continue;  // most of a long row
    int at = filled;
    while (at > 0 && comes_before(z[j], z[order[at - 1]])) --at;
    if (at == count) continue;
    for (int k = (filled < count ? filled : count - 1); k > at; --k) order[k] = order[k - 1];
    order[at] = j;
    if (filled < count) ++filled;
  }
}

// (z_plus - z_minus), over the spread of the leading logits for DLR.
float difference(LossKind kind, int64_t classes, float* __restrict dz, const float* __restrict z, int64_t best,
                 int64_t plus, int64_t minus, bool targeted) {
  const int64_t n = padded(classes);
  for_lanes(n, [=](int64_t j) { dz[j] = 0.0f; });
  const float gap = z[plus] - z[minus] + nan_unless_finite(z[best]);
  if (kind == LossKind::margin) {
    dz[plus] += 1.0f;
    dz[minus] -= 1.0f;
    return gap;
  }
  int64_t order[4];
  top_indices(z, classes, targeted ? 4 : 3, order);
  // Differences first: a large offset common to all logits then costs no accuracy.
  const float to_third = z[order[0]] - z[order[2]];
  const float spread = targeted ? 0.5f * (to_third + (z[order[0]] - z[order[3]])) : to_third;
  const float scale = spread + kDlrEps;
  const float loss = gap / scale;
  dz[plus] += 1.0f;
  dz[minus] -= 1.0f;
  dz[order[0]] -= loss;
  dz[order[2]] += targeted ? 0.5f * loss : loss;
  if (targeted) dz[order[3]] += 0.5f * loss;
  // Last, so that 1 - 1 cancels exactly where gap equals scale.
  for_lanes(n, [=](int64_t j) { dz[j] = dz[j] / scale; });
  return loss;
}

// `work` has room for four padded rows.
void one_sample(const LogitLossArgs& a, int64_t s, float* work) {
  const int64_t target = a.target[s], n = padded(a.classes);
  float *z = work, *dz = work + n;
  load(z, a.logits, a.logits_dtype, s, a.classes);
  const int64_t best = argmax(z, n);
  a.pred[s] = best;
  a.reached[s] = best == target;
  const bool towards = is_towards(a, s);
  const LossKind kind = towards ? a.kind : a.kind_away;
  if (kind == LossKind::ce) {
    a.loss[s] = cross_entropy(dz, z, n, best, target);
  } else if (kind == LossKind::kl) {
    float* p = work + 2 * n;
    load(p, a.clean_logits, a.clean_dtype, s, a.classes);
    a.loss[s] = divergence(dz, p, z, work + 3 * n, n, best);
  } else {
    const bool targeted = kind == LossKind::dlr && towards && a.y != nullptr;
    const int64_t plus = targeted ? a.y[s] : argmax_other(z, a.classes, target);
    a.loss[s] = difference(kind, a.classes, dz, z, best, plus, target, targeted);
  }
  if (a.loss[s] != a.loss[s]) for_lanes(n, [=](int64_t j) { dz[j] = NAN; });
  save(a, dz, s);
}

// With few classes a row is shorter than a vector, so cross-entropy, which every training step asks for, takes
// sixteen samples side by side: entry [j][k] is class j of sample k.
bool is_cross_entropy(const LogitLossArgs& a, int64_t s) {
  return (is_towards(a, s) ? a.kind : a.kind_away) == LossKind::ce;
}

template <typename T>
void cross_entropy_side_by_side(const LogitLossArgs& a, int64_t first) {
  const int64_t classes = a.classes;
  const int count = static_cast<int>(min_of(kLanes, a.n - first));
  const T* in = static_cast<const T*>(a.logits) + first * classes;
  T* out = static_cast<T*>(a.dlogits) + first * classes;
  float z[kFewClasses][kLanes] = {}, p[kFewClasses][kLanes];
  int32_t target[kLanes] = {}, best[kLanes];
  float top[kLanes], rest[kLanes], others[kLanes], at_target[kLanes] = {};
  for (int k = 0; k < count; ++k) {
    target[k] = static_cast<int32_t>(a.target[first + k]);
    for (int64_t j = 0; j < classes; ++j) z[j][k] = to_float(in[k * classes + j]);
  }
  best_of_lanes(z, classes, top, best);
  for (int k = 0; k < kLanes; ++k) rest[k] = others[k] = nan_unless_finite(top[k]);
  for (int32_t j = 0; j < classes; ++j) {
#pragma omp simd
    for (int k = 0; k < kLanes; ++k) {
      const float e = exp_nonpositive(z[j][k] - top[k]);
      rest[k] += j == best[k] ? 0.0f : e;
      p[j][k] = j == best[k] ? 1.0f : e;
      at_target[k] = j == target[k] ? z[j][k] : at_target[k];
    }
  }
  for (int32_t j = 0; j < classes; ++j) {
#pragma omp simd
    for (int k = 0; k < kLanes; ++k) {
      p[j][k] = p[j][k] / (1.0f + rest[k]);
      others[k] += j == target[k] ? 0.0f : p[j][k];
    }
  }
  for (int k = 0; k < count; ++k) {
    if (!is_cross_entropy(a, first + k)) continue;  // computed beside the others, at no cost
    p[target[k]][k] = -others[k];
    a.loss[first + k] = log1pf(rest[k]) + (top[k] - at_target[k]);
    a.pred[first + k] = best[k];
    a.reached[first + k] = best[k] == target[k];
    for (int64_t j = 0; j < classes; ++j) store(out + k * classes + j, p[j][k]);
  }
}

void few_classes(const LogitLossArgs& a, int64_t first) {
  switch (a.logits_dtype) {
    case DType::float32: return cross_entropy_side_by_side<float>(a, first);
    case DType::bfloat16: return cross_entropy_side_by_side<BFloat16>(a, first);
    case DType::float16: return cross_entropy_side_by_side<Float16>(a, first);
  }
}

}  // namespace

BadIndex logit_loss(const LogitLossArgs& a) {
  BadIndex bad = check_indices("target", a.target, a.n, a.classes);
  if (bad.argument == nullptr && a.y != nullptr) bad = check_indices("y", a.y, a.n, a.classes);
  if (bad.argument != nullptr || a.n == 0) return bad;
  const int team = team_size(a.threads, a.n * a.classes, a.n);
  const bool mixed = a.targeted != nullptr;
  // The other samples of a mixed batch follow one by one: a sample has the same bits in any company.
  const bool side_by_side = a.classes <= kFewClasses && (a.kind == LossKind::ce || (mixed && a.kind_away == LossKind::ce));
  if (side_by_side) {
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int64_t first = 0; first < a.n; first += kLanes) few_classes(a, first);
    if (!mixed) return bad;
  }
#pragma omp parallel num_threads(team) if (team > 1)
  {
    float* work = static_cast<float*>(malloc(static_cast<size_t>(4 * padded(a.classes)) * sizeof(float)));
#pragma omp for schedule(static)
    for (int64_t s = 0; s < a.n; ++s) {
      if (!side_by_side || !is_cross_entropy(a, s)) one_sample(a, s, work);
    }
    free(work);
  }
  return bad;
}

}  // namespace FAIRTAT_ISA
}  // namespace fairtat
