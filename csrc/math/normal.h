// Standard normal numbers by Box-Muller. The logarithm, sine and cosine are polynomials without branches, so that
// the loops around them vectorise and host and device agree to a few ulp.
#pragma once

#include "math/philox.h"

namespace fairtat {
namespace FAIRTAT_ISA {

// ln(x) for a normal x > 0. x = 2**n * f with f in [sqrt(1/2), sqrt(2)), and with s = (f - 1)/(f + 1), |s| < 0.172:
// ln(f) = 2 (s + s^3/3 + s^5/5 + ...), where the first term left out is below 2e-9.
FAIRTAT_FN float log_positive(float x) {
  const uint32_t shifted = bits_of(x) - 0x3f3504f3u;  // relative to sqrt(1/2)
  const int32_t n = static_cast<int32_t>(shifted) >> 23;
  const float f = float_of((shifted & 0x7fffffu) + 0x3f3504f3u);
  const float s = (f - 1.0f) / (f + 1.0f);
  const float s2 = s * s;
  float series = 1.0f / 9.0f;
  series = series * s2 + 1.0f / 7.0f;
  series = series * s2 + 1.0f / 5.0f;
  series = series * s2 + 1.0f / 3.0f;
  series = series * s2 + 1.0f;
  return static_cast<float>(n) * 0.6931471805599453f + 2.0f * s * series;
}

// sin and cos of 2*pi*u for u in [0, 1): the nearest quarter turn is exact, the rest a series on [-pi/4, pi/4].
FAIRTAT_FN void sin_cos_turn(float u, float* sine, float* cosine) {
  const int32_t quarter = static_cast<int32_t>(4.0f * u + 0.5f);
  const float angle = (4.0f * u - static_cast<float>(quarter)) * 1.5707963267948966f;
  const float a2 = angle * angle;
  float s = 1.0f / 362880.0f;
  s = s * a2 - 1.0f / 5040.0f;
  s = s * a2 + 1.0f / 120.0f;
  s = s * a2 - 1.0f / 6.0f;
  s = angle + angle * (a2 * s);
  float c = 1.0f / 40320.0f;
  c = c * a2 - 1.0f / 720.0f;
  c = c * a2 + 1.0f / 24.0f;
  c = c * a2 - 0.5f;
  c = c * a2 + 1.0f;
  const bool swap = (quarter & 1) != 0;
  const float first = swap ? c : s, second = swap ? s : c;
  *sine = (quarter & 2) != 0 ? -first : first;
  *cosine = ((quarter + 1) & 2) != 0 ? -second : second;
}

// Two standard normal numbers from two words.
FAIRTAT_FN void normal_pair(uint32_t word_a, uint32_t word_b, float* first, float* second) {
  const float radius = sqrtf(-2.0f * log_positive(positive_uniform(word_a)));
  float sine, cosine;
  sin_cos_turn(static_cast<float>(word_b >> 8) * 0x1p-24f, &sine, &cosine);
  *first = radius * cosine;
  *second = radius * sine;
}

}  // namespace FAIRTAT_ISA
}  // namespace fairtat
