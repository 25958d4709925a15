// The fixed point that losses are summed in: integers, so the order of a sum cannot matter, in two words, so that no
// sum of fewer than 2**31 losses can overflow.
#pragma once

#include "math/common.h"

namespace fairtat {
namespace FAIRTAT_ISA {

// Rows of the (7 + C, C) buffer, as in fairtat/reference/class_stats.py; two hold the losses, a pair for each class.
constexpr int64_t kReached = 0, kTargetFp = 1, kTargetFn = 2, kLoss = 3, kNonfinite = 5, kSaturated = 6, kConfusion = 7;

constexpr float kLossMax = 0x1.fffffep30f;  // the largest float whose whole part int32 holds

struct FixedPoint {
  int64_t whole, fraction;  // units of 1 and of 2**-32, of the same sign
};

// False for NaN and infinity, and for a loss that is cut to kLossMax.
FAIRTAT_FN bool fits_fixed_point(float loss) { return fabsf(loss) <= kLossMax; }

// loss = whole + round(fraction * 2**32) / 2**32, ties to even, for a loss that fits. All but that rounding is exact, and
// all of it vectorises: adding 1.5 * 2**52 leaves the rounded fraction in the low bits of a double.
FAIRTAT_FN FixedPoint to_fixed_point(float loss) {
  const int32_t whole = static_cast<int32_t>(loss);
  const double fraction = static_cast<double>(loss - static_cast<float>(whole));
  const double shift = 0x1.8p52;
  const double shifted = fraction * 0x1p32 + shift;
  int64_t bits, shift_bits;
  memcpy(&bits, &shifted, sizeof bits);
  memcpy(&shift_bits, &shift, sizeof shift_bits);
  return {whole, bits - shift_bits};
}

FAIRTAT_FN FixedPoint* loss_sums(int64_t* buffer, int64_t classes) {
  return reinterpret_cast<FixedPoint*>(buffer + kLoss * classes);
}

}  // namespace FAIRTAT_ISA
}  // namespace fairtat
