#include "math/class_stats.h"

#include "cpu/ops.h"
#include "cpu/parallel.h"

namespace fairtat {
namespace FAIRTAT_ISA {

// One thread: the increments scatter over one small buffer, and a batch is a few thousand samples.
BadIndex class_stats(const ClassStatsArgs& a) {
  BadIndex bad = check_indices("label", a.label, a.n, a.classes);
  if (bad.argument == nullptr) bad = check_indices("pred", a.pred, a.n, a.classes);
  if (bad.argument == nullptr && a.target != nullptr) bad = check_indices("target", a.target, a.n, a.classes);
  if (bad.argument != nullptr) return bad;
  const int64_t classes = a.classes;
  for (int64_t i = 0; i < a.n; ++i) ++a.buffer[(kConfusion + a.label[i]) * classes + a.pred[i]];
  if (a.target != nullptr) {
    for (int64_t i = 0; i < a.n; ++i) {
      const int64_t hit = a.pred[i] == a.target[i];
      a.buffer[kReached * classes + a.label[i]] += hit;
      a.buffer[kTargetFp * classes + a.pred[i]] += 1 - hit;
      a.buffer[kTargetFn * classes + a.label[i]] += 1 - hit;
    }
  }
  if (a.loss != nullptr) {
    for (int64_t i = 0; i < a.n; ++i) {
      const bool fits = fits_fixed_point(a.loss[i]);
      a.buffer[kLoss * classes + a.label[i]] += fits ? to_fixed_point(a.loss[i]) : 0;
      a.buffer[kNonfinite * classes + a.label[i]] += !fits;
    }
  }
  return bad;
}

}  // namespace FAIRTAT_ISA
}  // namespace fairtat
