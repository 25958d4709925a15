"""pgd_step: one projected step on x_adv; the equation is :func:`fairtat.ops.pgd_step_`'s."""

# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl

from fairtat.kernels.elementary import clip

FLOAT32_MAX = tl.constexpr(float.fromhex("0x1.fffffep127"))
SMALLEST_NORMAL = tl.constexpr(2.0**-126)


@triton.jit
def _write_input(model_input, offset, element, mask, value, mean, std, channels, channel_stride):
    if mean is not None:
        c = (element // channel_stride) % channels
        # div_rn: plain division is approximate on some GPUs, and the result has to be that of every backend.
        value = tl.div_rn(value - tl.load(mean + c, mask, 0.0), tl.load(std + c, mask, 1.0))
    tl.store(model_input + offset, value.to(model_input.dtype.element_ty), mask)


@triton.jit
def linf_kernel(
    x_adv, grad, x, eps_n, eps, step_n, step, direction, lo, hi, model_input, mean, std, zero_grad,
    d, channels, channel_stride,
    BLOCK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """BLOCK elements of one sample. ``direction`` is 1 towards a target and -1 away from a label.

    The program of a sample's first block also counts: it reads on only as long as it has seen nothing but zeros, so
    the count needs no atomic, no workspace and, for a healthy gradient, no memory traffic.
    """
    blocks = tl.cdiv(d, BLOCK)
    program = tl.program_id(0)
    sample = (program // blocks).to(tl.int64)
    block = program % blocks
    lane = tl.arange(0, BLOCK)
    element = block * BLOCK + lane
    if WIDE:
        element = block.to(tl.int64) * BLOCK + lane
    mask = element < d
    offset = sample * d + element
    radius = eps if eps_n is None else tl.load(eps_n + sample)
    towards = direction * (step if step_n is None else tl.load(step_n + sample))

    g = tl.load(grad + offset, mask, 0.0).to(tl.float32)
    start = tl.load(x_adv + offset, mask, 0.0)
    center = tl.load(x + offset, mask, 0.0)
    sign = (g > 0).to(tl.float32) - (g < 0).to(tl.float32)
    moved = start - towards * sign
    lower = center - radius
    upper = center + radius
    lower = tl.where(lower < lo, lo, lower)
    upper = tl.where(upper > hi, hi, upper)
    moved = clip(moved, lower, upper)
    tl.store(x_adv + offset, moved, mask)
    if model_input is not None:
        _write_input(model_input, offset, element, mask, moved, mean, std, channels, channel_stride)
    if zero_grad is not None:  # noqa: SIM102 (the outer one is decided at compile time)
        if block == 0:
            any_sign = tl.max((sign != 0).to(tl.int32), 0)
            first = (block + 1).to(tl.int64) * BLOCK
            while (any_sign == 0) & (first < d):
                rest = first + lane
                g = tl.load(grad + sample * d + rest, rest < d, 0.0).to(tl.float32)
                any_sign = tl.max(((g > 0) | (g < 0)).to(tl.int32), 0)
                first += BLOCK
            tl.store(zero_grad + sample, tl.load(zero_grad + sample) + (any_sign == 0).to(tl.int64))


@triton.jit
def _finite_gradient(g):
    """NaN reads as 0 and infinity as the largest float."""
    g = clip(g.to(tl.float32), -FLOAT32_MAX, FLOAT32_MAX)
    return tl.where(g != g, 0.0, g)


@triton.jit
def velocity_kernel(velocity, grad, momentum, zero_grad, d, BLOCK: tl.constexpr):
    """One sample: ``momentum * velocity + grad / ||grad||_1``, along which the step is made.

    The norm is summed in double and rounded to float, so backends that sum in another order agree on it.
    """
    sample = tl.program_id(0).to(tl.int64)
    base = sample * d
    lane = tl.arange(0, BLOCK)
    sums = tl.zeros((BLOCK,), tl.float64)
    for first in range(0, d, BLOCK):
        element = first + lane
        sums += tl.abs(_finite_gradient(tl.load(grad + base + element, element < d, 0.0))).to(tl.float64)
    magnitudes = tl.sum(sums, 0)
    norm = clip(magnitudes.to(tl.float32), 0.0, FLOAT32_MAX)
    norm = tl.where(magnitudes == 0, 1.0, norm)
    for first in range(0, d, BLOCK):
        element = first + lane
        mask = element < d
        g = _finite_gradient(tl.load(grad + base + element, mask, 0.0))
        before = tl.load(velocity + base + element, mask, 0.0)
        tl.store(velocity + base + element, momentum * before + tl.div_rn(g, norm), mask)
    if zero_grad is not None:
        tl.store(zero_grad + sample, tl.load(zero_grad + sample) + (magnitudes == 0).to(tl.int64))


@triton.jit
def _load(x_adv, grad, x, base, element, mask):
    """Gradient, image and clean image of these elements of the sample that begins at ``base``."""
    g = _finite_gradient(tl.load(grad + base + element, mask, 0.0))
    return g, tl.load(x_adv + base + element, mask, 0.0), tl.load(x + base + element, mask, 0.0)


@triton.jit
def _offset_from(x_adv, g, x, first_factor, second_factor):
    """x_adv - x after the step and before the projection."""
    return (x_adv - g * first_factor * second_factor) - x


@triton.jit
def _is_extreme(second_factor, towards, squares, length, radius):
    """Whether floats are too small a world for a sample: an offset, its square or a factor over- or underflows, or a
    pixel is not finite. No image in any units that people use comes here; who does is stepped in double."""
    lost_step = (tl.abs(second_factor) < SMALLEST_NORMAL) & (towards != 0)
    lost_length = (squares != squares) | (squares > 1e37) | ((squares < 1e-30) & (radius < 1e-14))
    lost_shrink = (radius > 0) & (radius < length * 1e-30)
    return lost_step | lost_length | lost_shrink


@triton.jit
def _offset_in_double(x_adv, g, x, towards, norm):
    return x_adv.to(tl.float64) - towards * g.to(tl.float64) / norm - x.to(tl.float64)


@triton.jit
def l2_kernel(
    x_adv, grad, x, eps_n, eps, step_n, step, direction, lo, hi, model_input, mean, std, zero_grad,
    d, channels, channel_stride,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """One sample: the gradient's norm, the offset's norm, the step. The sums have one order, so they are deterministic.

    A sample is read three times, the second and third time mostly from the caches.
    """
    sample = tl.program_id(0).to(tl.int64)
    base = sample * d
    lane = tl.arange(0, BLOCK)
    radius = tl.cast(eps if eps_n is None else tl.load(eps_n + sample), tl.float64)
    towards = tl.cast(direction * (step if step_n is None else tl.load(step_n + sample)), tl.float64)

    squares = tl.zeros((BLOCK,), tl.float64)  # in double no norm overflows
    for first in range(0, d, BLOCK):
        element = first + lane
        g = _finite_gradient(tl.load(grad + base + element, element < d, 0.0)).to(tl.float64)
        squares += g * g
    gradient_squares = tl.sum(squares, 0)
    norm = tl.sqrt(gradient_squares) + 1e-12
    # step / norm may be a subnormal float where the norm is huge: a power of two goes ahead of it.
    power = tl.where(norm > 2.0**64, 2.0**-64, 1.0)
    first_factor = power.to(tl.float32)
    second_factor = (towards / (norm * power.to(tl.float64))).to(tl.float32)

    squares = tl.zeros((BLOCK,), tl.float64)
    for first in range(0, d, BLOCK):
        element = first + lane
        g, start, center = _load(x_adv, grad, x, base, element, element < d)
        offset = _offset_from(start, g, center, first_factor, second_factor).to(tl.float64)
        squares += offset * offset
    length_squares = tl.sum(squares, 0)
    length = tl.sqrt(length_squares)
    extreme = _is_extreme(second_factor, towards, length_squares, length, radius)
    if extreme:
        squares = tl.zeros((BLOCK,), tl.float64)
        for first in range(0, d, BLOCK):
            element = first + lane
            g, start, center = _load(x_adv, grad, x, base, element, element < d)
            offset = _offset_in_double(start, g, center, towards, norm)
            squares += offset * offset
        length = tl.sqrt(tl.sum(squares, 0))
    # NaN where the length is not finite, as a pixel is not: the whole sample is then NaN.
    shrink = tl.where(length <= radius, 1.0, radius / length + (length - length))

    for first in range(0, d, BLOCK):
        element = first + lane
        mask = element < d
        g, start, center = _load(x_adv, grad, x, base, element, mask)
        if extreme:
            offset = _offset_in_double(start, g, center, towards, norm)
            moved = (center.to(tl.float64) + offset * shrink).to(tl.float32)
        else:
            moved = center + _offset_from(start, g, center, first_factor, second_factor) * shrink.to(tl.float32)
        moved = clip(moved, lo, hi)
        tl.store(x_adv + base + element, moved, mask)
        if model_input is not None:
            _write_input(model_input, base + element, element, mask, moved, mean, std, channels, channel_stride)
    if zero_grad is not None:
        # The square of the smallest float is a normal double: the sum is zero only if every element is.
        tl.store(zero_grad + sample, tl.load(zero_grad + sample) + (gradient_squares == 0).to(tl.int64))
