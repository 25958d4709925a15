// Pieces of the losses on logits: an exponential that compilers can vectorise, and an order on floats.
#pragma once

#include "math/common.h"

namespace fairtat {
namespace FAIRTAT_ISA {

constexpr float kDlrEps = 1e-12f;

// Which loss one sample has: both kinds may stand in one batch. `args` is LogitLossArgs.
template <typename Args>
FAIRTAT_FN bool is_towards(const Args& args, int64_t sample) {
  return args.targeted == nullptr || args.targeted[sample];
}

// exp(x) for x <= 0, within 2 ulp; 0 below the smallest normal float, NaN for NaN.
// exp(x) = 2**n * exp(r) with n = round(x / ln 2) and |r| <= ln(2)/2, exp(r) by its series to degree 7.
FAIRTAT_FN float exp_nonpositive(float x) {
  const float shift = 0x1.8p23f;  // adding it rounds to an integer that stands in the low bits
  const float shifted = x * 0x1.715476p0f + shift;
  const float n = shifted - shift;
  // ln 2 in two parts: the first has trailing zeros, so n times it is exact.
  const float r = (x - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f;
  float series = 1.0f / 5040.0f;
  series = series * r + 1.0f / 720.0f;
  series = series * r + 1.0f / 120.0f;
  series = series * r + 1.0f / 24.0f;
  series = series * r + 1.0f / 6.0f;
  series = series * r + 0.5f;
  series = series * r + 1.0f;
  series = series * r + 1.0f;
  const float power = float_of((bits_of(shifted) + 127u) << 23);
  return x < -87.33f ? 0.0f : series * power;
}

// What poisons a row whose largest logit (a NaN counts as largest) is NaN or infinite: it has no softmax.
FAIRTAT_FN float nan_unless_finite(float top) { return top - top; }

// p log(p / q) of one class. A probability of 0 contributes 0, but any chance, however small, of a class that is ruled
// out is infinite, also where p underflows.
FAIRTAT_FN float divergence_term(float clean, float clean_top, float z, float top, float p, float log_scales) {
  const float log_ratio = (clean - clean_top) - (z - top) + log_scales;
  const float term = p == 0.0f ? 0.0f : p * log_ratio;
  return z == -INFINITY && clean != -INFINITY ? INFINITY : term;
}

// Descending order in which NaN comes first, as torch.argmax and torch.sort have it.
FAIRTAT_FN bool comes_before(float a, float b) { return a > b || (a != a && b == b); }

}  // namespace FAIRTAT_ISA
}  // namespace fairtat
