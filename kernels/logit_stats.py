"""logit_stats: cross-entropy and prediction of a row of logits to a program, counted at once."""

# mypy: ignore-errors
from __future__ import annotations

import triton
import triton.language as tl

from fairtat.kernels.class_stats import count, in_range
from fairtat.kernels.elementary import exp_nonpositive, log1p_nonnegative
from fairtat.kernels.logit_loss import EVERYTHING, NAN, _exp_sum, _first_below, _logit


@triton.jit
def logit_stats_kernel(buffer, logits, label, target, classes, BLOCK: tl.constexpr):
    """One sample. The loss is that of logit_loss to the last bit; with an index out of range it counts nowhere."""
    sample = tl.program_id(0).to(tl.int64)
    row = logits + sample * classes
    k = tl.load(label + sample)
    valid = in_range(k, classes)
    best, _ = _first_below(row, classes, EVERYTHING, -1, BLOCK)
    top = _logit(row, best, True)
    own = _logit(row, k, valid)
    apart = _exp_sum(row, classes, top, best, k, BLOCK)  # neither the best nor the label
    rest = apart + tl.where(k == best, 0.0, exp_nonpositive(own - top))
    loss = tl.where(top - top == 0, log1p_nonnegative(rest) + (top - own), NAN)
    t = None
    if target is not None:
        t = tl.load(target + sample)
        valid = valid & in_range(t, classes)
    count(buffer, classes, k, best, valid, loss, t)
