// One projected step for one element. Comparisons are written so that NaN and the sign of zero come
// out as in fairtat/reference/pgd_step.py: a bound replaces a value only if the value lies beyond it.
#pragma once

#include "math/common.h"

namespace fairtat {
namespace FAIRTAT_ISA {

FAIRTAT_FN float clip(float value, float lo, float hi) {
  value = value < lo ? lo : value;
  return value > hi ? hi : value;
}

// `towards` is the step, negative to move away; sign(0) = sign(NaN) = 0.
FAIRTAT_FN float linf_step(float x_adv, float grad, float x, float eps, float towards, float lo, float hi) {
  const float sign = static_cast<float>(grad > 0.0f) - static_cast<float>(grad < 0.0f);
  const float moved = x_adv - towards * sign;
  const float lower = x - eps < lo ? lo : x - eps;
  const float upper = x + eps > hi ? hi : x + eps;
  return clip(moved, lower, upper);
}

FAIRTAT_FN bool has_sign(float grad) { return grad > 0.0f || grad < 0.0f; }

// The L2 step reads NaN as 0 and infinity as the largest float, and squares in double: no overflow.
FAIRTAT_FN double l2_gradient(float grad) {
  const float largest = 0x1.fffffep127f;
  const float finite = clip(grad, -largest, largest);
  return finite != finite ? 0.0 : static_cast<double>(finite);
}

// x_adv - x after the step and before the projection; `towards` = step / (||grad|| + 1e-12).
FAIRTAT_FN double l2_offset(float x_adv, float grad, float x, double towards) {
  return static_cast<double>(x_adv) - towards * l2_gradient(grad) - static_cast<double>(x);
}

FAIRTAT_FN float l2_project(double offset, double shrink, float x, float lo, float hi) {
  return clip(static_cast<float>(static_cast<double>(x) + offset * shrink), lo, hi);
}

FAIRTAT_FN float normalise(float value, float mean, float std) { return (value - mean) / std; }

}  // namespace FAIRTAT_ISA
}  // namespace fairtat
