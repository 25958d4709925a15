// The fixed point that losses are summed in: integers, so the order of a sum cannot matter.
#pragma once

#include "math/common.h"

namespace fairtat {
namespace FAIRTAT_ISA {

// Rows of the (5 + C, C) buffer, as in fairtat/reference/class_stats.py.
constexpr int64_t kReached = 0, kTargetFp = 1, kTargetFn = 2, kLoss = 3, kNonfinite = 4, kConfusion = 5;

// False for NaN and infinity, and for what int64 could not hold at this scale.
FAIRTAT_FN bool fits_fixed_point(float loss) { return fabsf(loss) < 0x1p31f; }

// round(loss * 2**32), ties to even, for a loss that fits. The whole part and the fraction go apart, both exactly, so
// that every step is one that vectorises: adding 1.5 * 2**52 leaves the rounded fraction in the low bits of a double.
FAIRTAT_FN int64_t to_fixed_point(float loss) {
  const int32_t whole = static_cast<int32_t>(loss);
  const double fraction = static_cast<double>(loss - static_cast<float>(whole));
  const double shift = 0x1.8p52;
  const double shifted = fraction * 0x1p32 + shift;
  int64_t bits, shift_bits;
  memcpy(&bits, &shifted, sizeof bits);
  memcpy(&shift_bits, &shift, sizeof shift_bits);
  return static_cast<int64_t>(whole) * (int64_t{1} << 32) + (bits - shift_bits);
}

}  // namespace FAIRTAT_ISA
}  // namespace fairtat
