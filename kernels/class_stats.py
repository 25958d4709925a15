"""class_stats: integers only, so that the order of the atomics cannot matter."""

# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl

# Rows of the (7 + C, C) buffer, as in fairtat/reference/class_stats.py.
REACHED = tl.constexpr(0)
TARGET_FP = tl.constexpr(1)
TARGET_FN = tl.constexpr(2)
LOSS = tl.constexpr(3)  # two rows: a pair for each class
NONFINITE = tl.constexpr(5)
SATURATED = tl.constexpr(6)
CONFUSION = tl.constexpr(7)

LOSS_MAX = tl.constexpr(2.0**31 - 128)
INFINITY = tl.constexpr(float("inf"))
SHIFT = tl.constexpr(1.5 * 2.0**52)  # adding it leaves a rounded number in the low bits of a double
SHIFT_BITS = tl.constexpr(0x4338000000000000)


@triton.jit
def _to_fixed_point(loss):
    """(whole, fraction in units of 2**-32, ties to even) of |loss| <= LOSS_MAX, in steps that are exact."""
    whole = loss.to(tl.int32)
    fraction = (loss - whole.to(tl.float32)).to(tl.float64)
    shifted = fraction * 2.0**32 + SHIFT
    return whole.to(tl.int64), shifted.to(tl.int64, bitcast=True) - SHIFT_BITS


@triton.jit
def in_range(index, classes):
    return (index >= 0) & (index < classes)


@triton.jit
def count(buffer, classes, k, p, valid, value, t):
    """Samples of label k, prediction p, and loss and target unless these are None; valid says which have indices in
    range. One whose loss is not finite counts only as that."""
    one = (k * 0 + 1).to(tl.int64)
    if value is not None:
        finite = tl.abs(value) < INFINITY  # false for NaN too
        tl.atomic_add(buffer + classes * NONFINITE + k, one, valid & (finite == 0), sem="relaxed")
        valid = valid & finite
        fits = tl.abs(value) <= LOSS_MAX
        whole, fraction = _to_fixed_point(tl.where(fits, value, tl.where(value > 0, LOSS_MAX, -LOSS_MAX)))
        tl.atomic_add(buffer + classes * LOSS + 2 * k, whole, valid & (whole != 0), sem="relaxed")
        tl.atomic_add(buffer + classes * LOSS + 2 * k + 1, fraction, valid, sem="relaxed")
        tl.atomic_add(buffer + classes * SATURATED + k, one, valid & (fits == 0), sem="relaxed")
    if t is not None:
        hit = valid & (p == t)
        miss = valid & (p != t)
        tl.atomic_add(buffer + classes * REACHED + k, one, hit, sem="relaxed")
        tl.atomic_add(buffer + classes * TARGET_FP + p, one, miss, sem="relaxed")
        tl.atomic_add(buffer + classes * TARGET_FN + k, one, miss, sem="relaxed")
    tl.atomic_add(buffer + (k + CONFUSION) * classes + p, one, valid, sem="relaxed")


@triton.jit(do_not_specialize=["n"])
def class_stats_kernel(buffer, pred, label, loss, target, n, classes, BLOCK: tl.constexpr):
    """BLOCK samples. One with an index out of range counts nowhere."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    k = tl.load(label + i, inside, -1)
    p = tl.load(pred + i, inside, -1)
    valid = in_range(k, classes) & in_range(p, classes)
    t = None
    if target is not None:
        t = tl.load(target + i, inside, -1)
        valid = valid & in_range(t, classes)
    value = None
    if loss is not None:
        value = tl.load(loss + i, inside, 0.0)
    count(buffer, classes, k, p, valid, value, t)
