"""Class-wise statistics as a metric of torchmetrics: in Lightning's logs, in collections, over many processes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fairtat import checks
from fairtat.fairness.class_stats import ClassStats
from fairtat.integrations.peer import require
from fairtat.reference import class_stats as layout

Metric: Any = require("torchmetrics", "'fairtat[torchmetrics]'").Metric

__all__ = ["ClassStatsMetric"]


class ClassStatsMetric(Metric):
    """`fairtat.ClassStats` with torchmetrics' interface: ``update(preds, target)``, ``compute()``, ``reset()``.

    The state is the int64 buffer of `ClassStats`, summed over processes when ``compute`` is called, so any number of
    processes gives the same bits. `compute` returns, on the metric's device and without waiting for it:

        accuracy (C,)       tp_k / n_k, which is the class's recall; NaN for a class without samples
        average ()          right samples over all samples
        balanced ()         mean of `accuracy` over the classes that have samples
        worst ()            lowest accuracy of a class that has samples; NaN without samples
        cfps, cfns (C,)     shares of all errors that landed on a class, and that are missed samples of it
        loss (C,)           mean cross-entropy of each class; NaN where there is none

    torchmetrics' own class-wise recall is 0 for a class without samples; here it is NaN, so that it cannot be taken for
    the worst one.

    Args:
        num_classes: C >= 2.
        options: those of `torchmetrics.Metric`.

    Raises:
        TypeError, ValueError: num_classes is not an int, or is below 2.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    buffer: Tensor

    def __init__(self, num_classes: int, **options: Any) -> None:
        super().__init__(**options)
        self.num_classes = checks.integer("num_classes", num_classes, low=2)
        shape = (layout.HEADER + self.num_classes, self.num_classes)
        self.add_state("buffer", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    @property
    def stats(self) -> ClassStats:
        """This process's counts, as a view: what is counted in one is counted in the other."""
        stats = ClassStats(self.num_classes, device=self.buffer.device)
        stats.buffer = self.buffer
        return stats

    def update(self, preds: Tensor, target: Tensor, attack_target: Tensor | None = None) -> None:
        """Count a batch.

        Args:
            preds: (N, C) logits of any floating dtype.
            target: (N,) int64, the true classes, as torchmetrics calls them.
            attack_target: (N,) int64, the classes that the attack moved towards, if there were any.

        Raises:
            TypeError, ValueError: as `ClassStats.update`.
        """
        self.stats.update(preds, target, attack_target)

    def compute(self) -> dict[str, Tensor]:
        """The figures of all samples, of all processes."""
        stats = self.stats
        accuracy = stats.accuracy
        lowest = torch.where(accuracy.isnan(), torch.inf, accuracy).min()
        return {
            "accuracy": accuracy,
            "average": stats.overall_accuracy,
            "balanced": stats.mean_accuracy,
            "worst": torch.where(lowest.isinf(), torch.nan, lowest),
            "cfps": stats.cfps,
            "cfns": stats.cfns,
            "loss": stats.loss_mean,
        }
