// Rows side by side: entry [j][k] is class j of row k. With few classes a row is shorter than a vector, and one class of
// sixteen rows is a whole one. One order of summation, so that logit_stats counts logit_loss's losses to the last bit.
#pragma once

#include "math/logit_loss.h"

namespace fairtat {
namespace FAIRTAT_ISA {

constexpr int kLanes = 16;
constexpr int64_t kFewClasses = 64;

// The largest logit of each row and its class: NaN is largest, the lower class comes first among equals.
FAIRTAT_FN void best_of_lanes(const float (*z)[kLanes], int64_t classes, float (&top)[kLanes], int32_t (&best)[kLanes]) {
  for (int k = 0; k < kLanes; ++k) top[k] = z[0][k];
  for (int k = 0; k < kLanes; ++k) best[k] = 0;
  for (int32_t j = 1; j < classes; ++j) {
#pragma omp simd
    for (int k = 0; k < kLanes; ++k) {
      const bool better = comes_before(z[j][k], top[k]);
      best[k] = better ? j : best[k];
      top[k] = better ? z[j][k] : top[k];
    }
  }
}

}  // namespace FAIRTAT_ISA
}  // namespace fairtat
