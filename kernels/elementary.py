"""Elementary functions that the kernels share, as polynomials without branches.

Vendors' exponentials and logarithms differ, and the fast ones lose digits; these give every GPU the accuracy that
csrc/math has on the host.
"""

# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl

from fairtat.kernels.philox import positive_uniform

LOG2_E = tl.constexpr(float.fromhex("0x1.715476p0"))
# ln 2 in two parts: the first has trailing zeros, so that an integer times it is exact.
LN2_HIGH = tl.constexpr(float.fromhex("0x1.62e4p-1"))
LN2_LOW = tl.constexpr(float.fromhex("0x1.7f7d1cp-20"))
ROUNDING_SHIFT = tl.constexpr(1.5 * 2.0**23)  # adding it rounds to an integer that stands in the low bits
SQRT_HALF_BITS = tl.constexpr(0x3F3504F3)


@triton.jit
def clip(value, lo, hi):
    """A bound replaces a value only if the value lies beyond it: NaN and the sign of zero stay as they are."""
    value = tl.where(value < lo, lo, value)
    return tl.where(value > hi, hi, value)


@triton.jit
def exp_nonpositive(x):
    """exp(x) for x <= 0, within 2 ulp; 0 below the smallest normal float, NaN for NaN.

    exp(x) = 2**n * exp(r) with n = round(x / ln 2) and |r| <= ln(2)/2, exp(r) by its series to degree 7.
    """
    shifted = x * LOG2_E + ROUNDING_SHIFT
    n = shifted - ROUNDING_SHIFT
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    series = 1.0 / 5040.0
    series = series * r + 1.0 / 720.0
    series = series * r + 1.0 / 120.0
    series = series * r + 1.0 / 24.0
    series = series * r + 1.0 / 6.0
    series = series * r + 0.5
    series = series * r + 1.0
    series = series * r + 1.0
    power = ((shifted.to(tl.int32, bitcast=True) + 127) << 23).to(tl.float32, bitcast=True)
    return tl.where(x < -87.33, 0.0, series * power)


@triton.jit
def log_positive(x):
    """ln(x) for a normal x > 0.

    x = 2**n * f with f in [sqrt(1/2), sqrt(2)), and with s = (f - 1)/(f + 1), |s| < 0.172:
    ln(f) = 2 (s + s^3/3 + s^5/5 + ...), where the first term left out is below 2e-9.
    """
    shifted = x.to(tl.int32, bitcast=True) - SQRT_HALF_BITS
    n = (shifted >> 23).to(tl.float32)
    f = ((shifted & 0x7FFFFF) + SQRT_HALF_BITS).to(tl.float32, bitcast=True)
    s = tl.div_rn(f - 1.0, f + 1.0)
    s2 = s * s
    series = 1.0 / 9.0
    series = series * s2 + 1.0 / 7.0
    series = series * s2 + 1.0 / 5.0
    series = series * s2 + 1.0 / 3.0
    series = series * s2 + 1.0
    return n * 0.6931471805599453 + 2.0 * s * series


@triton.jit
def log1p_nonnegative(x):
    """ln(1 + x) for x >= 0, NaN for NaN. What 1 + x loses by rounding, the quotient x / (u - 1) gives back."""
    u = 1.0 + x
    small = u == 1.0
    return tl.where(small, x, log_positive(u) * tl.div_rn(x, tl.where(small, 1.0, u - 1.0)))


@triton.jit
def sin_cos_turn(u):
    """sin and cos of 2*pi*u for u in [0, 1): the nearest quarter turn is exact, the rest a series on [-pi/4, pi/4]."""
    quarter = (4.0 * u + 0.5).to(tl.int32)
    angle = (4.0 * u - quarter.to(tl.float32)) * 1.5707963267948966
    a2 = angle * angle
    s = 1.0 / 362880.0
    s = s * a2 - 1.0 / 5040.0
    s = s * a2 + 1.0 / 120.0
    s = s * a2 - 1.0 / 6.0
    s = angle + angle * (a2 * s)
    c = 1.0 / 40320.0
    c = c * a2 - 1.0 / 720.0
    c = c * a2 + 1.0 / 24.0
    c = c * a2 - 0.5
    c = c * a2 + 1.0
    swap = (quarter & 1) != 0
    first = tl.where(swap, c, s)
    second = tl.where(swap, s, c)
    sine = tl.where((quarter & 2) != 0, -first, first)
    cosine = tl.where(((quarter + 1) & 2) != 0, -second, second)
    return sine, cosine


@triton.jit
def normal_pair(word_a, word_b):
    """Two standard normal numbers from two words, by Box-Muller."""
    radius = tl.sqrt_rn(-2.0 * log_positive(positive_uniform(word_a)))
    sine, cosine = sin_cos_turn((word_b >> 8).to(tl.float32) * 2.0**-24)
    return radius * cosine, radius * sine
