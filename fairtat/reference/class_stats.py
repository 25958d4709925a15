"""class_stats: per-class counts, losses and the confusion matrix in one int64 buffer."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fairtat.reference.definition import Written, taking
from fairtat.reference.indices import check_range

# Rows of the (HEADER + C, C) buffer. Samples, correct, false positives and false negatives follow
# from the confusion matrix, so they are not stored a second time.
REACHED = 0  # pred == target, by label
TARGET_FP = 1  # pred != target, by pred
TARGET_FN = 2  # pred != target, by label
LOSS = 3  # rows 3 and 4 are the pairs (C, 2) by label: sum of whole parts, sum of fractions in units of 1 / LOSS_SCALE
NONFINITE = 5  # samples whose loss is not finite, by label: they count nowhere else
SATURATED = 6  # finite losses that were cut to LOSS_MAX, by label
CONFUSION = 7  # rows 7.. are the matrix [label, pred]
HEADER = 7

LOSS_SCALE = 2.0**32
LOSS_MAX = 2.0**31 - 128  # the largest float32 whose whole part int32 holds: below 2**31 samples no sum overflows


class ClassStatsArgs(NamedTuple):
    """What a count takes."""

    buffer: Written  # (7 + C, C)
    pred: Tensor  # (N,)
    label: Tensor  # (N,)
    loss: Tensor | None  # (N,)
    target: Tensor | None  # (N,)


@taking(ClassStatsArgs)
@torch.no_grad()
def class_stats_(a: ClassStatsArgs) -> None:
    """Add a batch to ``buffer`` (7 + C, C) int64; see :func:`fairtat.ops.class_stats_`."""
    buffer, pred, label, loss, target = a
    if label.shape[0] == 0:
        return
    classes = buffer.shape[1]
    valid = torch.ones_like(label, dtype=torch.bool)
    for name, index in (("label", label), ("pred", pred), ("target", target)):
        if index is None:
            continue
        if index.device.type == "cpu":
            check_range(name, index, classes)
        valid &= (index >= 0) & (index < classes)
    # On a GPU an index out of range cannot raise without a synchronization: such samples count nowhere.
    safe_label, safe_pred = label.clamp(0, classes - 1), pred.clamp(0, classes - 1)
    flat = buffer.view(-1)
    if loss is not None:
        value = loss.detach().double()
        finite = value.isfinite()
        _add(flat, NONFINITE * classes + safe_label, valid & ~finite)
        valid &= finite
        fixed = torch.where(valid, value, 0.0).clamp(-LOSS_MAX, LOSS_MAX)
        whole = fixed.trunc()
        pair = LOSS * classes + 2 * safe_label
        flat.scatter_add_(0, pair, whole.long())
        flat.scatter_add_(0, pair + 1, ((fixed - whole) * LOSS_SCALE).round().long())
        _add(flat, SATURATED * classes + safe_label, valid & (value.abs() > LOSS_MAX))
    _add(flat, (CONFUSION + safe_label) * classes + safe_pred, valid)
    if target is not None:
        hit = pred == target
        _add(flat, REACHED * classes + safe_label, valid & hit)
        _add(flat, TARGET_FP * classes + safe_pred, valid & ~hit)
        _add(flat, TARGET_FN * classes + safe_label, valid & ~hit)


def _add(flat: Tensor, index: Tensor, mask: Tensor) -> None:
    flat.scatter_add_(0, index, mask.long())
