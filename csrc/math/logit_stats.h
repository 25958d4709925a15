// Cross-entropy and prediction of a row of logits, from its largest logit and the sum over the others.
#pragma once

#include "math/class_stats.h"
#include "math/logit_loss.h"

namespace fairtat {
namespace FAIRTAT_ISA {

// `rest` is the sum of exp(z_j - top) over all classes but the best. NaN where the row has no softmax.
FAIRTAT_FN float cross_entropy_of(float top, float rest, float own) {
  return log1pf(rest + nan_unless_finite(top)) + (top - own);
}

}  // namespace FAIRTAT_ISA
}  // namespace fairtat
