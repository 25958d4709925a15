"""class_stats: per-class counts, losses and the confusion matrix in one int64 buffer."""

from __future__ import annotations

import torch
from torch import Tensor

from fairtat.reference.indices import check_range

# Rows of the (HEADER + C, C) buffer. Samples, correct, false positives and false negatives follow
# from the confusion matrix, so they are not stored a second time.
REACHED = 0  # pred == target, by label
TARGET_FP = 1  # pred != target, by pred
TARGET_FN = 2  # pred != target, by label
LOSS = 3  # fixed point, by label
NONFINITE = 4  # losses that the fixed point cannot hold, by label
CONFUSION = 5  # rows 5.. are the matrix [label, pred]
HEADER = 5

LOSS_SCALE = 2.0**32
LOSS_LIMIT = 2.0**31  # |loss| from here on does not fit int64 at this scale


@torch.no_grad()
def class_stats_(buffer: Tensor, pred: Tensor, label: Tensor, loss: Tensor | None, target: Tensor | None) -> None:
    """Add a batch to ``buffer`` (5 + C, C) int64; see :func:`fairtat.ops.class_stats_`."""
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
    # On a GPU an index out of range cannot raise without a synchronisation: such samples count nowhere.
    safe_label, safe_pred = label.clamp(0, classes - 1), pred.clamp(0, classes - 1)
    flat = buffer.view(-1)
    _add(flat, (CONFUSION + safe_label) * classes + safe_pred, valid)
    if target is not None:
        hit = pred == target
        _add(flat, REACHED * classes + safe_label, valid & hit)
        _add(flat, TARGET_FP * classes + safe_pred, valid & ~hit)
        _add(flat, TARGET_FN * classes + safe_label, valid & ~hit)
    if loss is not None:
        value = loss.detach().double()
        fits = value.abs() < LOSS_LIMIT  # false for NaN and inf too
        fixed = torch.where(fits & valid, value * LOSS_SCALE, 0.0).round().long()
        flat.scatter_add_(0, LOSS * classes + safe_label, fixed)
        _add(flat, NONFINITE * classes + safe_label, valid & ~fits)


def _add(flat: Tensor, index: Tensor, mask: Tensor) -> None:
    flat.scatter_add_(0, index, mask.long())
