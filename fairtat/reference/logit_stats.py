"""logit_stats: class statistics of a batch, straight from its logits."""

from __future__ import annotations

import torch
from torch import Tensor

from fairtat.reference.class_stats import class_stats_
from fairtat.reference.logit_loss import logit_loss


@torch.no_grad()
def logit_stats_(buffer: Tensor, logits: Tensor, label: Tensor, target: Tensor | None) -> None:
    """Add a batch to ``buffer`` (7 + C, C) int64; see :func:`fairtat.ops.logit_stats_`."""
    loss, _, pred, _ = logit_loss(logits, label, "ce", None, None)
    class_stats_(buffer, pred, label, loss, target)
