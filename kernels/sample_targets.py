"""sample_targets: draw a class other than the label from running sums of integer weights."""

# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl

from fairtat.kernels.philox import TARGET_POSITION, philox


@triton.jit(do_not_specialize=["seed", "stream", "n"])
def sample_targets_kernel(
    label, table, sample_ids, seed: tl.int64, stream: tl.int64, target, n, classes,
    BY_LABEL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """BLOCK samples; the target of a label out of range is -1."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    k = tl.load(label + i, inside, -1)
    valid = (k >= 0) & (k < classes)
    sample_id = i if sample_ids is None else tl.load(sample_ids + i, inside, 0)
    word, _, _, _ = philox(TARGET_POSITION, stream, sample_id, seed)
    row = table + (k * classes if BY_LABEL else k * 0)
    before = tl.load(row + k - 1, valid & (k > 0), 0)
    own = tl.load(row + k, valid, 0) - before
    # At most 2**31 times a 32-bit word: no overflow.
    draw = (word.to(tl.int64) * (tl.load(row + classes - 1, valid, 0) - own)) >> 32
    draw += tl.where(draw >= before, own, 0)  # step over the label's own share
    # The first class whose running sum exceeds the draw; the number of steps depends on the classes alone.
    first = k * 0
    left = tl.cast(classes, tl.int64)
    while left > 1:
        half = left // 2
        first += tl.where(tl.load(row + first + half - 1, valid, 0) <= draw, half, 0)
        left -= half
    tl.store(target + i, tl.where(valid, first, -1), inside)
