// Where an attack starts, for one element: see fairtat/reference/pgd_init.py for the definition.
#pragma once

#include "math/normal.h"
#include "math/pgd_step.h"

namespace fairtat {
namespace FAIRTAT_ISA {

FAIRTAT_FN float pixel_of(uint8_t byte) { return static_cast<float>(byte) / 255.0f; }

constexpr float kNormalStd = 1e-3f;

FAIRTAT_FN float start_uniform(float x, uint32_t word, float eps, float lo, float hi) {
  return clip(x + eps * symmetric_uniform(word), lo, hi);
}

FAIRTAT_FN float start_normal(float x, float normal, float eps, float lo, float hi) {
  return clip_but_for_sign(clip_but_for_sign(multiply_add(kNormalStd, normal, x), x - eps, x + eps), lo, hi);
}

// The factor on a sample's normal direction of length `length` that makes it uniform in the L2 ball.
FAIRTAT_FN double l2_uniform_scale(uint32_t word, double eps, double length, double elements) {
  const double u = static_cast<double>(positive_uniform(word));
  // A direction of one or two elements can come out as zero: it stays zero instead of NaN.
  return length > 0.0 ? eps * pow(u, 1.0 / elements) / length : 0.0;
}

// The factor for the normal start, shortened to the ball where it would leave it.
FAIRTAT_FN double l2_normal_scale(double eps, double length) {
  const double std = 1e-3;
  return std * length > eps ? eps / length : std;
}

FAIRTAT_FN float start_l2(float x, float direction, double scale, float lo, float hi) {
  return clip(static_cast<float>(static_cast<double>(x) + static_cast<double>(direction) * scale), lo, hi);
}

}  // namespace FAIRTAT_ISA
}  // namespace fairtat
