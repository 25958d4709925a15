"""logit_loss: an attack's loss, its gradient and the prediction, one row of logits to a program.

A row is walked in blocks, as often as the loss needs it: one block holds a row of up to BLOCK classes, which is read
from memory once and from the cache after that. The arithmetic is float32 whatever the logits' dtype.
"""

# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl

from fairtat.kernels.elementary import exp_nonpositive, log1p_nonnegative

DLR_EPS = tl.constexpr(1e-12)
EVERYTHING = tl.constexpr(2**63 - 1)  # above every rank
NOTHING = tl.constexpr(-(2**63))  # below every rank
INDEX_MASK = tl.constexpr(0x7FFFFFFF)
NAN = tl.constexpr(float("nan"))
INF = tl.constexpr(float("inf"))


@triton.jit
def _rank(z, j):
    """An int64 that orders (logit, index) as torch.argmax and torch.sort do: NaN largest, then by value, then the
    lower index first; no two ranks of a row are equal."""
    bits = z.to(tl.int32, bitcast=True)
    key = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    key = tl.where(z == 0, 0, key)  # -0 and +0 are equal
    key = tl.where(z != z, 0x7FFFFFFF, key)
    return (key.to(tl.int64) << 32) | (j ^ INDEX_MASK).to(tl.int64)


@triton.jit
def _first_below(row, classes, bound, skip, BLOCK: tl.constexpr):
    """Index of the highest-ranked class other than ``skip`` whose rank is below ``bound``, and its rank."""
    best = tl.cast(NOTHING, tl.int64)
    for first in range(0, classes, BLOCK):
        j = first + tl.arange(0, BLOCK)
        inside = j < classes
        rank = _rank(tl.load(row + j, inside, 0.0).to(tl.float32), j)
        rank = tl.where(inside & (j != skip) & (rank < bound), rank, NOTHING)
        best = tl.maximum(best, tl.max(rank, 0))
    return (best & INDEX_MASK) ^ INDEX_MASK, best


@triton.jit
def _logit(row, index, valid):
    return tl.load(row + index, valid, 0.0).to(tl.float32)


@triton.jit
def _predict(row, target, pred, reached, sample, classes, BLOCK: tl.constexpr):
    """Store the prediction; return it, its logit, the target, and whether that is a class and the row has a softmax."""
    t = tl.load(target + sample)
    best, _ = _first_below(row, classes, EVERYTHING, -1, BLOCK)
    tl.store(pred + sample, best)
    tl.store(reached + sample, best == t)
    top = _logit(row, best, True)
    return best, top, t, (t >= 0) & (t < classes) & (top - top == 0)


@triton.jit
def _exp_sum(row, classes, top, skip_a, skip_b, BLOCK: tl.constexpr):
    """sum of exp(z_j - top) over the classes but two."""
    lanes = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, classes, BLOCK):
        j = first + tl.arange(0, BLOCK)
        inside = j < classes
        e = exp_nonpositive(tl.load(row + j, inside, 0.0).to(tl.float32) - top)
        lanes += tl.where(inside & (j != skip_a) & (j != skip_b), e, 0.0)
    return tl.sum(lanes, 0)


@triton.jit
def _softmax(z, j, top, best, scale):
    return tl.div_rn(tl.where(j == best, 1.0, exp_nonpositive(z - top)), scale)


@triton.jit
def _cross_entropy(sample, logits, target, loss, dlogits, pred, reached, classes, BLOCK: tl.constexpr):
    """logsumexp(z) - z_t, and softmax(z) - onehot(t) without cancellation near p_t = 1.

    The target's entry is minus the sum of the others, not p_t - 1: a confident sample keeps a gradient where
    the difference rounds to 0. For the same reason the loss uses log1p.
    """
    row = logits + sample * classes
    best, top, t, valid = _predict(row, target, pred, reached, sample, classes, BLOCK)
    own = _logit(row, t, valid)
    apart = _exp_sum(row, classes, top, best, t, BLOCK)  # neither the best nor the target
    others = apart + tl.where(t == best, 0.0, 1.0)
    rest = apart + tl.where(t == best, 0.0, exp_nonpositive(own - top))  # all but the best
    scale = 1.0 + rest
    tl.store(loss + sample, tl.where(valid, log1p_nonnegative(rest) + (top - own), NAN))
    own_slope = -tl.div_rn(others, scale)
    for first in range(0, classes, BLOCK):
        j = first + tl.arange(0, BLOCK)
        inside = j < classes
        p = _softmax(tl.load(row + j, inside, 0.0).to(tl.float32), j, top, best, scale)
        slope = tl.where(valid, tl.where(j == t, own_slope, p), NAN)
        tl.store(dlogits + sample * classes + j, slope.to(dlogits.dtype.element_ty), inside)


@triton.jit
def _divergence(sample, logits, target, clean_logits, loss, dlogits, pred, reached, classes, BLOCK: tl.constexpr):
    """KL(softmax(clean_logits) || softmax(logits)); its gradient is the second minus the first."""
    row = logits + sample * classes
    clean_row = clean_logits + sample * classes
    best, top, _, valid = _predict(row, target, pred, reached, sample, classes, BLOCK)
    clean_best, _ = _first_below(clean_row, classes, EVERYTHING, -1, BLOCK)
    clean_top = _logit(clean_row, clean_best, True)
    valid = valid & (clean_top - clean_top == 0)
    rest = _exp_sum(row, classes, top, best, best, BLOCK)
    clean_rest = _exp_sum(clean_row, classes, clean_top, clean_best, clean_best, BLOCK)
    log_scales = log1p_nonnegative(rest) - log1p_nonnegative(clean_rest)
    lanes = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, classes, BLOCK):
        j = first + tl.arange(0, BLOCK)
        inside = j < classes
        z = tl.load(row + j, inside, 0.0).to(tl.float32)
        clean = tl.load(clean_row + j, inside, 0.0).to(tl.float32)
        p = _softmax(clean, j, clean_top, clean_best, 1.0 + clean_rest)
        q = _softmax(z, j, top, best, 1.0 + rest)
        term = tl.where(p == 0, 0.0, p * ((clean - clean_top) - (z - top) + log_scales))  # 0 * log(0 / q) is 0
        # Any chance, however small, of a class that is ruled out: also where p underflows.
        term = tl.where((z == -INF) & (clean != -INF), INF, term)
        lanes += tl.where(inside, term, 0.0)
        slope = tl.where(valid, q - p, NAN)
        tl.store(dlogits + sample * classes + j, slope.to(dlogits.dtype.element_ty), inside)
    tl.store(loss + sample, tl.where(valid, tl.sum(lanes, 0), NAN))


@triton.jit
def _difference(
    sample, logits, target, y, loss, dlogits, pred, reached, classes, DLR: tl.constexpr, BLOCK: tl.constexpr
):
    """margin, and dlr without and with y: z_plus - z_t, over the spread of the leading logits for dlr."""
    row = logits + sample * classes
    best, top, t, valid = _predict(row, target, pred, reached, sample, classes, BLOCK)
    if y is None:
        plus, _ = _first_below(row, classes, EVERYTHING, t, BLOCK)
    else:
        plus = tl.load(y + sample)
        valid = valid & (plus >= 0) & (plus < classes)
    value = _logit(row, plus, valid) - _logit(row, t, valid)
    third = plus
    fourth = plus
    scale = 1.0
    if DLR:
        _, rank = _first_below(row, classes, EVERYTHING, -1, BLOCK)
        _, rank = _first_below(row, classes, rank, -1, BLOCK)
        third, rank = _first_below(row, classes, rank, -1, BLOCK)
        # Differences first: a large offset common to all logits then costs no accuracy.
        spread = top - _logit(row, third, True)
        if y is not None:
            fourth, _ = _first_below(row, classes, rank, -1, BLOCK)
            spread = 0.5 * (spread + (top - _logit(row, fourth, True)))
        scale = spread + DLR_EPS
        value = tl.div_rn(value, scale)
    valid = valid & (value == value)
    tl.store(loss + sample, tl.where(valid, value, NAN))
    for first in range(0, classes, BLOCK):
        j = first + tl.arange(0, BLOCK)
        slope = (j == plus).to(tl.float32) - (j == t).to(tl.float32)
        if DLR:
            slope = tl.where(j == best, slope - value, slope)
            if y is None:
                slope = tl.where(j == third, slope + value, slope)
            else:
                slope = tl.where((j == third) | (j == fourth), slope + 0.5 * value, slope)
            slope = tl.div_rn(slope, scale)  # last, so that 1 - 1 cancels exactly where value equals scale
        slope = tl.where(valid, slope, NAN)
        tl.store(dlogits + sample * classes + j, slope.to(dlogits.dtype.element_ty), j < classes)


@triton.jit
def _loss_of_kind(
    sample, logits, target, y, clean_logits, loss, dlogits, pred, reached, classes, KIND: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    if KIND == "ce":
        _cross_entropy(sample, logits, target, loss, dlogits, pred, reached, classes, BLOCK)
    elif KIND == "kl":
        _divergence(sample, logits, target, clean_logits, loss, dlogits, pred, reached, classes, BLOCK)
    else:
        _difference(sample, logits, target, y, loss, dlogits, pred, reached, classes, KIND == "dlr", BLOCK)


@triton.jit
def logit_loss_kernel(
    logits, target, y, clean_logits, targeted, loss, dlogits, pred, reached, classes,
    KIND: tl.constexpr, KIND_AWAY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One row. With ``targeted``, KIND is the loss where it is true and KIND_AWAY, without y, elsewhere."""
    sample = tl.program_id(0).to(tl.int64)
    if targeted is None:
        _loss_of_kind(sample, logits, target, y, clean_logits, loss, dlogits, pred, reached, classes, KIND, BLOCK)
    else:
        if tl.load(targeted + sample):
            _loss_of_kind(sample, logits, target, y, clean_logits, loss, dlogits, pred, reached, classes, KIND, BLOCK)
        else:
            _loss_of_kind(
                sample, logits, target, None, clean_logits, loss, dlogits, pred, reached, classes, KIND_AWAY, BLOCK
            )
