"""pgd_init: where an attack starts; the definition is :func:`fairtat.ops.pgd_init`'s."""

# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl

from fairtat.kernels.elementary import clip, exp_nonpositive, log_positive, normal_pair
from fairtat.kernels.philox import (
    RADIUS_POSITION,
    element_words,
    in_element_order,
    philox,
    positive_uniform,
    symmetric_uniform,
)

NORMAL_STD = tl.constexpr(1e-3)  # the start of TRADES (Zhang et al. 2019)


@triton.jit
def _element_normals(first_group, stream, sample_id, seed, BLOCK: tl.constexpr):
    """Standard normal numbers of BLOCK elements: Box-Muller on lanes (0, 1) and (2, 3)."""
    group = first_group + tl.arange(0, BLOCK // 4)
    w0, w1, w2, w3 = philox(group, stream, sample_id, seed)
    n0, n1 = normal_pair(w0, w1)
    n2, n3 = normal_pair(w2, w3)
    return in_element_order(n0, n1, n2, n3)


@triton.jit
def _memory_offset(
    element, size1, size2, size3, stride0, stride1, stride2, stride3, DIMS: tl.constexpr
):  # fmt: skip
    """Where an element of a sample lies in memory; elements count in logical order, the last dimension innermost."""
    offset = element * 0
    if DIMS == 4:
        offset += element % size3 * stride3
        element = element // size3
    if DIMS >= 3:
        offset += element % size2 * stride2
        element = element // size2
    if DIMS >= 2:
        offset += element % size1 * stride1
        element = element // size1
    return offset + element * stride0


@triton.jit
def _pixel(x, pixels, at, mask):
    """x, or x / 255 of bytes, which goes to `pixels` as well."""
    if pixels is not None:
        value = tl.div_rn(tl.load(x + at, mask, 0).to(tl.float32), 255.0)
        tl.store(pixels + at, value, mask)
    else:
        value = tl.load(x + at, mask, 0.0)
    return value


@triton.jit
def _store_start(out, model_input, mean, std, channels, channel_stride, at, start, mask):
    """The start, and the model's input from it. Samples have whole channels, so the place in the batch tells which."""
    tl.store(out + at, start, mask)
    if model_input is not None:
        if mean is not None:
            c = at // channel_stride % channels
            start = tl.div_rn(start - tl.load(mean + c, mask, 0.0), tl.load(std + c, mask, 1.0))
        tl.store(model_input + at, start.to(model_input.dtype.element_ty), mask)


@triton.jit(do_not_specialize=["seed", "stream"])
def linf_kernel(
    out, x, eps_n, eps, sample_ids, seed: tl.int64, stream: tl.int64, lo, hi,
    pixels, model_input, mean, std, channels, channel_stride,
    d, size1, size2, size3, stride0, stride1, stride2, stride3, n,
    INIT: tl.constexpr, DIMS: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """BLOCK elements of one sample, four to a Philox counter; INIT is "uniform", "normal" or "zero"."""
    block = tl.program_id(0)
    sample = tl.program_id(2).to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    if sample >= n:
        return
    if WIDE:
        block = block.to(tl.int64)
    element = block * BLOCK + tl.arange(0, BLOCK)
    mask = element < d
    at = sample * d + _memory_offset(element, size1, size2, size3, stride0, stride1, stride2, stride3, DIMS)
    centre = _pixel(x, pixels, at, mask)
    if INIT == "zero":
        start = centre
    else:
        radius = eps if eps_n is None else tl.load(eps_n + sample)
        sample_id = sample if sample_ids is None else tl.load(sample_ids + sample)
        first_group = block * (BLOCK // 4)
        if INIT == "uniform":
            start = centre + radius * symmetric_uniform(element_words(first_group, stream, sample_id, seed, BLOCK))
        else:
            noise = _element_normals(first_group, stream, sample_id, seed, BLOCK)
            start = clip(centre + noise * NORMAL_STD, centre - radius, centre + radius)
    _store_start(out, model_input, mean, std, channels, channel_stride, at, clip(start, lo, hi), mask)


@triton.jit(do_not_specialize=["seed", "stream"])
def l2_kernel(
    out, x, eps_n, eps, sample_ids, seed: tl.int64, stream: tl.int64, lo, hi,
    pixels, model_input, mean, std, channels, channel_stride,
    d, size1, size2, size3, stride0, stride1, stride2, stride3,
    INIT: tl.constexpr, DIMS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One sample. The direction is drawn twice, for its length and for the start: cheaper than to keep it."""
    sample = tl.program_id(0).to(tl.int64)
    sample_id = sample if sample_ids is None else tl.load(sample_ids + sample)
    lane = tl.arange(0, BLOCK)
    radius = tl.cast(eps if eps_n is None else tl.load(eps_n + sample), tl.float64)

    squares = tl.zeros((BLOCK,), tl.float64)
    for first in range(0, d, BLOCK):
        noise = _element_normals(first // 4, stream, sample_id, seed, BLOCK)
        noise = tl.where(first + lane < d, noise, 0.0).to(tl.float64)
        squares += noise * noise
    length = tl.sqrt(tl.sum(squares, 0))
    if INIT == "uniform":
        word, _, _, _ = philox(RADIUS_POSITION, stream, sample_id, seed)
        root = exp_nonpositive(tl.div_rn(log_positive(positive_uniform(word)), tl.cast(d, tl.float32)))
        # A direction of one or two elements can come out as zero: it stays zero instead of NaN.
        scale = tl.where(length > 0, radius * root.to(tl.float64) / tl.where(length > 0, length, 1.0), 0.0)
    else:
        std = tl.cast(NORMAL_STD, tl.float64)
        scale = tl.where(std * length > radius, radius / length, std)

    for first in range(0, d, BLOCK):
        element = first + lane
        mask = element < d
        at = sample * d + _memory_offset(element, size1, size2, size3, stride0, stride1, stride2, stride3, DIMS)
        noise = _element_normals(first // 4, stream, sample_id, seed, BLOCK).to(tl.float64)
        centre = _pixel(x, pixels, at, mask).to(tl.float64)
        start = clip((centre + noise * scale).to(tl.float32), lo, hi)
        _store_start(out, model_input, mean, std, channels, channel_stride, at, start, mask)
