#include "math/logit_stats.h"

#include "cpu/lanes.h"
#include "cpu/ops.h"
#include "cpu/parallel.h"

namespace fairtat {
namespace FAIRTAT_ISA {
namespace {

// Losses and predictions wait here to be counted; a multiple of kLanes.
constexpr int64_t kBlock = 2048;

struct Block {
  float loss[kBlock];
  int64_t pred[kBlock];
};

// Rows shorter than some vectors: sixteen samples side by side, entry [j][k] is class j of sample k.
template <typename T>
void short_rows(const LogitStatsArgs& a, int64_t first, int64_t count, float* loss, int64_t* pred) {
  const int64_t classes = a.classes;
  const T* in = static_cast<const T*>(a.logits) + first * classes;
  float z[kFewClasses][kLanes];
  float top[kLanes], rest[kLanes];
  int32_t best[kLanes];
  if (count < kLanes) memset(z, 0, static_cast<size_t>(classes) * sizeof z[0]);
  for (int64_t k = 0; k < count; ++k) {
    for (int64_t j = 0; j < classes; ++j) z[j][k] = to_float(in[k * classes + j]);
  }
  best_of_lanes(z, classes, top, best);
  for (int k = 0; k < kLanes; ++k) rest[k] = 0.0f;
  for (int32_t j = 0; j < classes; ++j) {
#pragma omp simd
    for (int k = 0; k < kLanes; ++k) rest[k] += j == best[k] ? 0.0f : exp_nonpositive(z[j][k] - top[k]);
  }
  for (int64_t k = 0; k < count; ++k) {
    loss[k] = cross_entropy_of(top[k], rest[k], z[a.label[first + k]][k]);
    pred[k] = best[k];
  }
}

// Calls body(z, block) for each sixteen logits of a row; the last ones are padded with -inf, which is never best and
// weighs nothing.
template <typename T, typename Body>
FAIRTAT_FN void for_blocks(const T* row, int64_t classes, Body body) {
  const int32_t whole = static_cast<int32_t>(classes / kLanes);
  for (int32_t block = 0; block < whole; ++block) body(row + block * kLanes, block);
  if (whole * kLanes == classes) return;
  float rest[kLanes];
  for (int k = 0; k < kLanes; ++k) {
    const int64_t j = whole * kLanes + k;
    rest[k] = j < classes ? to_float(row[j]) : -INFINITY;
  }
  body(static_cast<const float*>(rest), whole);
}

template <typename T>
void long_row(const T* row, int64_t classes, int64_t label, float* loss, int64_t* pred) {
  float tops[kLanes], sums[kLanes] = {};
  int32_t at[kLanes] = {};  // the block of each lane's best
  for (int k = 0; k < kLanes; ++k) tops[k] = to_float(row[k]);
  for_blocks(row, classes, [&](const auto* z, int32_t block) {
#pragma omp simd
    for (int k = 0; k < kLanes; ++k) {
      const float value = to_float(z[k]);
      const bool better = comes_before(value, tops[k]);
      at[k] = better ? block : at[k];
      tops[k] = better ? value : tops[k];
    }
  });
  float top = tops[0];
  int64_t best = int64_t{at[0]} * kLanes;
  for (int k = 1; k < kLanes; ++k) {
    const int64_t j = int64_t{at[k]} * kLanes + k;
    const bool better = comes_before(tops[k], top) || (!comes_before(top, tops[k]) && j < best);
    best = better ? j : best;
    top = better ? tops[k] : top;
  }
  for_blocks(row, classes, [&](const auto* z, int32_t block) {
    const int32_t skip = static_cast<int32_t>(best) - block * kLanes;
#pragma omp simd
    for (int k = 0; k < kLanes; ++k) sums[k] += k == skip ? 0.0f : exp_nonpositive(to_float(z[k]) - top);
  });
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int k = 0; k < half; ++k) sums[k] += sums[k + half];
  }
  *loss = cross_entropy_of(top, sums[0], to_float(row[label]));
  *pred = best;
}

template <typename T>
void some_rows(const LogitStatsArgs& a, int64_t first, int64_t count, float* loss, int64_t* pred) {
  if (a.classes <= kFewClasses) return short_rows<T>(a, first, count, loss, pred);
  for (int64_t k = 0; k < count; ++k) {
    const int64_t s = first + k;
    long_row(static_cast<const T*>(a.logits) + s * a.classes, a.classes, a.label[s], loss + k, pred + k);
  }
}

void lanes_of_samples(const LogitStatsArgs& a, int64_t first, int64_t count, float* loss, int64_t* pred) {
  switch (a.logits_dtype) {
    case DType::float32: return some_rows<float>(a, first, count, loss, pred);
    case DType::bfloat16: return some_rows<BFloat16>(a, first, count, loss, pred);
    case DType::float16: return some_rows<Float16>(a, first, count, loss, pred);
  }
}

}  // namespace

BadIndex logit_stats(const LogitStatsArgs& a) {
  BadIndex bad = check_indices("label", a.label, a.n, a.classes);
  if (bad.argument == nullptr && a.target != nullptr) bad = check_indices("target", a.target, a.n, a.classes);
  if (bad.argument != nullptr) return bad;
  Block block;
  for (int64_t begin = 0; begin < a.n; begin += kBlock) {
    const int64_t n = min_of(kBlock, a.n - begin);
    const int team = team_size(a.threads, n * a.classes, (n + kLanes - 1) / kLanes);
#pragma omp parallel for num_threads(team) schedule(static) if (team > 1)
    for (int64_t i = 0; i < n; i += kLanes) {
      lanes_of_samples(a, begin + i, min_of(kLanes, n - i), block.loss + i, block.pred + i);
    }
    class_stats({a.buffer, a.classes, n, block.pred, a.label + begin, block.loss,
                 a.target == nullptr ? nullptr : a.target + begin});
  }
  return bad;
}

}  // namespace FAIRTAT_ISA
}  // namespace fairtat
