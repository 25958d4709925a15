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

// `clip`, but for the sign of a zero that lies on a bound, in one instruction of a GPU for each bound.
FAIRTAT_FN float clip_but_for_sign(float value, float lo, float hi) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("max.NaN.f32 %0, %0, %1;" : "+f"(value) : "f"(lo));
  asm("min.NaN.f32 %0, %0, %1;" : "+f"(value) : "f"(hi));
  return value;
#else
  return clip(value, lo, hi);
#endif
}

// sign(0) = sign(NaN) = 0
FAIRTAT_FN float sign_of(float grad) { return static_cast<float>(grad > 0.0f) - static_cast<float>(grad < 0.0f); }

// `towards` is the step, negative to move away.
FAIRTAT_FN float linf_step(float x_adv, float grad, float x, float eps, float towards, float lo, float hi) {
  const float moved = x_adv - towards * sign_of(grad);
  const float lower = x - eps < lo ? lo : x - eps;
  const float upper = x + eps > hi ? hi : x + eps;
  return clip(moved, lower, upper);
}

FAIRTAT_FN bool has_sign(float grad) { return grad > 0.0f || grad < 0.0f; }

// What takes the gradient's size reads NaN as 0 and infinity as the largest float.
FAIRTAT_FN float finite_gradient(float grad) {
  const float largest = 0x1.fffffep127f;
  const float finite = clip(grad, -largest, largest);
  return finite != finite ? 0.0f : finite;
}

// A gradient's L1 norm as its share of the velocity is divided by it; 1 for one that is all zero. The sum is a double
// and the norm a float, so backends that sum in another order agree on it.
FAIRTAT_FN float l1_norm(double magnitudes) {
  const float largest = 0x1.fffffep127f;
  if (magnitudes == 0.0) return 1.0f;
  return magnitudes < static_cast<double>(largest) ? static_cast<float>(magnitudes) : largest;
}

FAIRTAT_FN float next_velocity(float velocity, float grad, float momentum, float norm) {
  return momentum * velocity + finite_gradient(grad) / norm;
}

// How far to go along the gradient, as two factors. Squares are summed in double, so that no norm overflows; where the
// norm is huge, step / norm alone would be a subnormal float, and a power of two goes ahead of it.
struct L2Scale {
  float first, second;
};

FAIRTAT_FN double l2_norm(double squares) { return sqrt(squares) + 1e-12; }

FAIRTAT_FN L2Scale l2_scale(double squares, float towards) {
  const double norm = l2_norm(squares);
  const double power = norm > 0x1p64 ? 0x1p-64 : 1.0;
  return {static_cast<float>(power), static_cast<float>(static_cast<double>(towards) / (norm * power))};
}

// x_adv - x after the step and before the projection.
FAIRTAT_FN float l2_offset(float x_adv, float grad, float x, L2Scale scale) {
  return (x_adv - finite_gradient(grad) * scale.first * scale.second) - x;
}

// The factor that brings an offset of this length back to the ball.
FAIRTAT_FN float l2_shrink(double squares, float eps) {
  const double length = sqrt(squares);
  return length <= static_cast<double>(eps) ? 1.0f : static_cast<float>(static_cast<double>(eps) / length);
}

FAIRTAT_FN float l2_project(float offset, float shrink, float x, float lo, float hi) {
  return clip(x + offset * shrink, lo, hi);
}

// Whether floats are too small a world for a sample: an offset, its square or a factor over- or underflows, or a pixel
// is not finite. No image in any units that people use comes here; who does is stepped in double, in more time.
FAIRTAT_FN bool l2_is_extreme(L2Scale scale, float towards, double squares, float eps) {
  const bool lost_step = fabsf(scale.second) < 0x1p-126f && towards != 0.0f;
  const bool lost_length = !(squares <= 1e37) || (squares < 1e-30 && eps < 1e-14f);
  const bool lost_shrink = eps > 0.0f && static_cast<double>(eps) < sqrt(squares) * 1e-30;
  return lost_step || lost_length || lost_shrink;
}

// Of a sample, or of a part of it: with u = x_adv - x, the sums of g g, u g and u u.
struct L2Sums {
  double gradient, across, offset;
};

// The square of the offset's length after the step, which needs no second look at the sample. Where the step cancels u,
// what is left is off by 3e-8 of u's length, as is each u itself in float.
FAIRTAT_FN double l2_length_squares(const L2Sums& sums, double step) {
  const double squares = sums.offset - 2.0 * step * sums.across + step * step * sums.gradient;
  return squares < 0.0 ? 0.0 : squares;  // by rounding; NaN stays
}

FAIRTAT_FN double l2_offset_in_double(float x_adv, float grad, float x, float towards, double norm) {
  const double step = static_cast<double>(towards) * static_cast<double>(finite_gradient(grad)) / norm;
  return static_cast<double>(x_adv) - step - static_cast<double>(x);
}

// NaN where the length is not finite, as a pixel is not: the whole sample is then NaN.
FAIRTAT_FN double l2_shrink_in_double(double squares, float eps) {
  const double length = sqrt(squares), radius = static_cast<double>(eps);
  return length <= radius ? 1.0 : radius / length + (length - length);
}

FAIRTAT_FN float l2_project_in_double(double offset, double shrink, float x, float lo, float hi) {
  return clip(static_cast<float>(static_cast<double>(x) + offset * shrink), lo, hi);
}

// In L1, what is left of an element's offset where `cut` is taken from each: no more than the bounds allow.
FAIRTAT_FN double l1_left(double magnitude, double room, double cut) {
  const double left = magnitude > cut ? magnitude - cut : 0.0;
  return left < room ? left : room;
}

FAIRTAT_FN float normalise(float value, float mean, float std) { return (value - mean) / std; }

// A channel's statistics, with what divides by its std many times.
struct alignas(16) Statistics {
  float mean, std, reciprocal;
  float smallest;  // dividend that divide_safely takes, by its magnitude; infinity: none
};

// Of a channel whose pixels lie in [lo, hi].
FAIRTAT_FN Statistics statistics_of(float mean, float std, float lo, float hi) {
  // Between these no product or remainder below over- or underflows.
  const bool usable = fabsf(std) >= 0x1p-30f && fabsf(std) <= 0x1p30f && fabsf(lo) + fabsf(hi) + fabsf(mean) <= 0x1p60f;
  // A difference from such a mean is 0, whose quotient has the division's sign too, or at least 2**-44.
  const float smallest = fabsf(mean) >= 0x1p-20f ? 0.0f : 0x1p-60f;
  return {mean, std, 1.0f / std, usable ? smallest : INFINITY};
}

// `value`: a pixel minus the mean.
FAIRTAT_FN bool division_is_safe(float value, const Statistics& by) { return fabsf(value) >= by.smallest; }

// value / std with the bits of the division, by the reciprocal. The first correction makes the quotient faithful; where
// the reciprocal is rounded to nearest and the quotient faithful, one more rounds it to nearest (Markstein's theorem;
// Muller et al., Handbook of Floating-Point Arithmetic, section 4.7): the remainder of each is exact in a fused
// multiply-add.
FAIRTAT_FN float divide_safely(float value, const Statistics& by) {
  const float first = value * by.reciprocal;
  const float faithful = fmaf(fmaf(-by.std, first, value), by.reciprocal, first);
  return fmaf(fmaf(-by.std, faithful, value), by.reciprocal, faithful);
}

}  // namespace FAIRTAT_ISA
}  // namespace fairtat
