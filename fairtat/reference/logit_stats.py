"""logit_stats: class statistics of a batch, straight from its logits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fairtat.reference.class_stats import class_stats_
from fairtat.reference.definition import Written, taking
from fairtat.reference.logit_loss import logit_loss


class LogitStatsArgs(NamedTuple):
    """What a count takes."""

    buffer: Written  # (7 + C, C)
    logits: Tensor  # (N, C)
    label: Tensor  # (N,)
    target: Tensor | None  # (N,)


@taking(LogitStatsArgs)
@torch.no_grad()
def logit_stats_(a: LogitStatsArgs) -> None:
    """Add a batch to ``buffer`` (7 + C, C) int64; see :func:`fairtat.ops.logit_stats_`."""
    loss, _, pred, _ = logit_loss(a.logits, a.label, "ce", None, None)
    class_stats_(a.buffer, pred, a.label, loss, a.target)
