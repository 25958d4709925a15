#include "math/class_stats.h"

#include "cpu/ops.h"
#include "cpu/parallel.h"

namespace fairtat {
namespace FAIRTAT_ISA {
namespace {

// Losses become integers a block at a time, in a loop that vectorises, before they are scattered.
constexpr int64_t kBlock = 512;

// Returns whether every loss fits; one that does not becomes 0.
bool fix_losses(int64_t* __restrict fixed, const float* __restrict loss, int64_t n) {
  int misfits = 0;
#pragma omp simd reduction(+ : misfits)
  for (int64_t i = 0; i < n; ++i) {
    const bool fits = fits_fixed_point(loss[i]);
    misfits += !fits;
    fixed[i] = to_fixed_point(fits ? loss[i] : 0.0f);
  }
  return misfits == 0;
}

void count_nonfinite(const ClassStatsArgs& a, int64_t begin, int64_t n) {
  int64_t* const nonfinite = a.buffer + kNonfinite * a.classes;
  for (int64_t i = begin; i < begin + n; ++i) nonfinite[a.label[i]] += !fits_fixed_point(a.loss[i]);
}

// Increments of one counter in quick succession wait for each other. With few classes that is the common case, so
// neighbouring samples count into copies of their own, which are added up at the end.
constexpr int64_t kFewClasses = 16;
constexpr int kCopies = 4;

struct Copies {
  uint32_t cells[kCopies][kFewClasses * kFewClasses];
  int64_t sums[kCopies][kFewClasses];
};

FAIRTAT_FN void count_one(Copies* to, int copy, int64_t classes, int64_t label, int64_t pred, int64_t fixed) {
  ++to->cells[copy][label * classes + pred];
  to->sums[copy][label] += fixed;
}

void add_few_classes(const ClassStatsArgs& a) {
  const int64_t classes = a.classes, cells = classes * classes;
  Copies copies = {};
  int64_t fixed[kBlock] = {};
  for (int64_t begin = 0; begin < a.n; begin += kBlock) {
    const int64_t n = min_of(kBlock, a.n - begin);
    if (a.loss != nullptr && !fix_losses(fixed, a.loss + begin, n)) count_nonfinite(a, begin, n);
    const int64_t* const label = a.label + begin;
    const int64_t* const pred = a.pred + begin;
    int64_t i = 0;
    for (; i + kCopies <= n; i += kCopies) {
      for (int k = 0; k < kCopies; ++k) count_one(&copies, k, classes, label[i + k], pred[i + k], fixed[i + k]);
    }
    for (; i < n; ++i) count_one(&copies, 0, classes, label[i], pred[i], fixed[i]);
  }
  for (int copy = 0; copy < kCopies; ++copy) {
    for (int64_t j = 0; j < cells; ++j) a.buffer[kConfusion * classes + j] += copies.cells[copy][j];
    for (int64_t j = 0; j < classes; ++j) a.buffer[kLoss * classes + j] += copies.sums[copy][j];
  }
}

void add_many_classes(const ClassStatsArgs& a) {
  int64_t* const confusion = a.buffer + kConfusion * a.classes;
  int64_t* const sum = a.buffer + kLoss * a.classes;
  int64_t fixed[kBlock] = {};
  for (int64_t begin = 0; begin < a.n; begin += kBlock) {
    const int64_t n = min_of(kBlock, a.n - begin);
    if (a.loss != nullptr && !fix_losses(fixed, a.loss + begin, n)) count_nonfinite(a, begin, n);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t label = a.label[begin + i];
      ++confusion[label * a.classes + a.pred[begin + i]];
      sum[label] += fixed[i];
    }
  }
}

void add_targets(const ClassStatsArgs& a) {
  int64_t* const reached = a.buffer + kReached * a.classes;
  int64_t* const target_fp = a.buffer + kTargetFp * a.classes;
  int64_t* const target_fn = a.buffer + kTargetFn * a.classes;
  for (int64_t i = 0; i < a.n; ++i) {
    const int64_t hit = a.pred[i] == a.target[i];
    reached[a.label[i]] += hit;
    target_fp[a.pred[i]] += 1 - hit;
    target_fn[a.label[i]] += 1 - hit;
  }
}

}  // namespace

// One thread: the increments scatter over one small buffer, and a batch is a few thousand samples.
BadIndex class_stats(const ClassStatsArgs& a) {
  BadIndex bad = check_indices("label", a.label, a.n, a.classes);
  if (bad.argument == nullptr) bad = check_indices("pred", a.pred, a.n, a.classes);
  if (bad.argument == nullptr && a.target != nullptr) bad = check_indices("target", a.target, a.n, a.classes);
  if (bad.argument != nullptr) return bad;
  // The copies are worth clearing and adding up for a batch of some size; a count below 2**32 fits them.
  const bool copies = a.classes <= kFewClasses && a.n >= 256 && a.n < (int64_t{1} << 32);
  if (copies) {
    add_few_classes(a);
  } else {
    add_many_classes(a);
  }
  if (a.target != nullptr) add_targets(a);
  return bad;
}

}  // namespace FAIRTAT_ISA
}  // namespace fairtat
