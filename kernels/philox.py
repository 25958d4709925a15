"""Philox4x32-10 (Salmon et al., SC 2011): the random words that every backend draws."""

# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl

# Positions outside any image, so that a sample's radius and target share no word with its pixels.
RADIUS_POSITION = tl.constexpr(0xFFFFFFFE)
TARGET_POSITION = tl.constexpr(0xFFFFFFFF)


@triton.jit
def philox(position, stream, sample_id, seed):
    """Four uint32 words. Counter = (position, stream, sample id low, high), key = (seed low, high)."""
    sample_id = tl.cast(sample_id, tl.int64)
    seed = tl.cast(seed, tl.int64)
    c0 = tl.cast(position, tl.uint32)
    c1 = tl.cast(stream, tl.uint32)
    c2 = sample_id.to(tl.uint32)
    c3 = (sample_id >> 32).to(tl.uint32)
    k0 = seed.to(tl.uint32)
    k1 = (seed >> 32).to(tl.uint32)
    for _ in tl.static_range(10):
        product0 = c0.to(tl.uint64) * 0xD2511F53  # one instruction for both halves
        product2 = c2.to(tl.uint64) * 0xCD9E8D57
        c0 = (product2 >> 32).to(tl.uint32) ^ c1 ^ k0
        c1 = product2.to(tl.uint32)
        c2 = (product0 >> 32).to(tl.uint32) ^ c3 ^ k1
        c3 = product0.to(tl.uint32)
        k0 += 0x9E3779B9
        k1 += 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def in_element_order(lane0, lane1, lane2, lane3):
    """Four lanes of G groups as 4 * G elements: element e is lane e % 4 of group e // 4."""
    return tl.interleave(tl.interleave(lane0, lane2), tl.interleave(lane1, lane3))


@triton.jit
def element_words(first_group, stream, sample_id, seed, BLOCK: tl.constexpr):
    """The words of BLOCK elements from element 4 * first_group on."""
    group = first_group + tl.arange(0, BLOCK // 4)
    w0, w1, w2, w3 = philox(group, stream, sample_id, seed)
    return in_element_order(w0, w1, w2, w3)


@triton.jit
def symmetric_uniform(word):
    """U[-1, 1) from a word: exact in float32, so every backend gets the same bits."""
    return (word >> 8).to(tl.float32) * 2.0**-23 - 1.0


@triton.jit
def positive_uniform(word):
    """(0, 1]: a radius, or the argument of a logarithm."""
    return ((word >> 8) + 1).to(tl.float32) * 2.0**-24
