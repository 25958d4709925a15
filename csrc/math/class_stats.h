// The fixed point that losses are summed in: integers, so the order of a sum cannot matter.
#pragma once

#include "math/common.h"

namespace fairtat {
namespace FAIRTAT_ISA {

// Rows of the (5 + C, C) buffer, as in fairtat/reference/class_stats.py.
constexpr int64_t kReached = 0, kTargetFp = 1, kTargetFn = 2, kLoss = 3, kNonfinite = 4, kConfusion = 5;

// False for NaN and infinity, and for what int64 could not hold at this scale.
FAIRTAT_FN bool fits_fixed_point(float loss) { return fabsf(loss) < 0x1p31f; }

FAIRTAT_FN int64_t to_fixed_point(float loss) {
  return static_cast<int64_t>(nearbyint(static_cast<double>(loss) * 0x1p32));
}

}  // namespace FAIRTAT_ISA
}  // namespace fairtat
