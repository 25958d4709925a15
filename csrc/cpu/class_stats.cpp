#include "math/class_stats.h"

#include "cpu/ops.h"
#include "cpu/parallel.h"

namespace fairtat {
namespace FAIRTAT_ISA {
namespace {

// Sums wrap, as they do on every backend: a buffer that was filled by hand may hold anything.
FAIRTAT_FN void add(int64_t* to, int64_t value) {
  *to = static_cast<int64_t>(static_cast<uint64_t>(*to) + static_cast<uint64_t>(value));
}

FAIRTAT_FN void add(FixedPoint* to, FixedPoint value) {
  add(&to->whole, value.whole);
  add(&to->fraction, value.fraction);
}

// Losses become integers a block at a time, in a loop that vectorises, before they are scattered.
constexpr int64_t kBlock = 256;

// Returns whether every loss fits; one that does not becomes 0.
bool fix_losses(FixedPoint* __restrict fixed, const float* __restrict loss, int64_t n) {
  int misfits = 0;
#pragma omp simd reduction(+ : misfits)
  for (int64_t i = 0; i < n; ++i) {
    const bool fits = fits_fixed_point(loss[i]);
    misfits += !fits;
    fixed[i] = to_fixed_point(fits ? loss[i] : 0.0f);
  }
  return misfits == 0;
}

// Adds `times` (1 or -1) the sample to the counts that its prediction decides.
FAIRTAT_FN void count_target(const ClassStatsArgs& a, int64_t i, int64_t times) {
  const int64_t label = a.label[i], pred = a.pred[i];
  if (pred == a.target[i]) {
    add(a.buffer + kReached * a.classes + label, times);
  } else {
    add(a.buffer + kTargetFp * a.classes + pred, times);
    add(a.buffer + kTargetFn * a.classes + label, times);
  }
}

// What the fast loops, which take every loss to fit, have got wrong in a block where one does not.
void correct_misfits(const ClassStatsArgs& a, int64_t begin, int64_t n) {
  for (int64_t i = begin; i < begin + n; ++i) {
    const int64_t label = a.label[i];
    const float loss = a.loss[i];
    if (fits_fixed_point(loss)) continue;
    if (fabsf(loss) < INFINITY) {
      add(a.buffer + kSaturated * a.classes + label, 1);
      add(loss_sums(a.buffer, a.classes) + label, to_fixed_point(loss > 0.0f ? kLossMax : -kLossMax));
    } else {
      add(a.buffer + kNonfinite * a.classes + label, 1);
      add(a.buffer + (kConfusion + label) * a.classes + a.pred[i], -1);
      if (a.target != nullptr) count_target(a, i, -1);
    }
  }
}

// Increments of one counter in quick succession wait for each other. With few classes that is the common case, so
// neighbouring samples count into copies of their own, which are added up at the end.
constexpr int64_t kFewClasses = 16;
constexpr int kCopies = 4;

struct Copies {
  uint32_t cells[kCopies][kFewClasses * kFewClasses];
  alignas(16) FixedPoint sums[kCopies][kFewClasses];  // a pair in one cache line
};

FAIRTAT_FN void count_one(Copies* to, int copy, int64_t classes, int64_t label, int64_t pred, FixedPoint fixed) {
  ++to->cells[copy][label * classes + pred];
  add(&to->sums[copy][label], fixed);
}

void add_few_classes(const ClassStatsArgs& a) {
  const int64_t classes = a.classes, cells = classes * classes;
  Copies copies = {};
  alignas(64) FixedPoint fixed[kBlock];
  if (a.loss == nullptr) memset(fixed, 0, sizeof fixed);
  for (int64_t begin = 0; begin < a.n; begin += kBlock) {
    const int64_t n = min_of(kBlock, a.n - begin);
    if (a.loss != nullptr && !fix_losses(fixed, a.loss + begin, n)) correct_misfits(a, begin, n);
    const int64_t* const label = a.label + begin;
    const int64_t* const pred = a.pred + begin;
    int64_t i = 0;
    for (; i + kCopies <= n; i += kCopies) {
      for (int k = 0; k < kCopies; ++k) count_one(&copies, k, classes, label[i + k], pred[i + k], fixed[i + k]);
    }
    for (; i < n; ++i) count_one(&copies, 0, classes, label[i], pred[i], fixed[i]);
  }
  for (int copy = 0; copy < kCopies; ++copy) {
    for (int64_t j = 0; j < cells; ++j) add(a.buffer + kConfusion * classes + j, copies.cells[copy][j]);
    for (int64_t j = 0; j < classes; ++j) add(loss_sums(a.buffer, classes) + j, copies.sums[copy][j]);
  }
}

void add_many_classes(const ClassStatsArgs& a) {
  int64_t* const confusion = a.buffer + kConfusion * a.classes;
  FixedPoint* const sums = loss_sums(a.buffer, a.classes);
  alignas(64) FixedPoint fixed[kBlock];
  if (a.loss == nullptr) memset(fixed, 0, sizeof fixed);
  for (int64_t begin = 0; begin < a.n; begin += kBlock) {
    const int64_t n = min_of(kBlock, a.n - begin);
    if (a.loss != nullptr && !fix_losses(fixed, a.loss + begin, n)) correct_misfits(a, begin, n);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t label = a.label[begin + i];
      add(confusion + label * a.classes + a.pred[begin + i], 1);
      add(sums + label, fixed[i]);
    }
  }
}

void add_targets(const ClassStatsArgs& a) {
  for (int64_t i = 0; i < a.n; ++i) count_target(a, i, 1);
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
