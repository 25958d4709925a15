"""Class-wise figures of a confusion matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Any

import numpy as np
import torch

from fairtat.evaluation.metrics.accuracies import Accuracies
from fairtat.evaluation.samples import NONE
from fairtat.fairness import ClassStats


@dataclass(frozen=True, eq=False)
class ClassFigures(Accuracies):
    """Class-wise accuracy under one condition; every figure follows from the counts in ``confusion``.

    ``confusion`` is (C, C) int64, [label, prediction]. ``nonfinite`` counts apart, for each class, the samples for
    which the model named no class because its logits were not finite: they belong to ``n`` and are wrong; () if there
    are none. A class without samples has accuracy NaN, interval (0, 1), and is not counted in ``worst``, ``std``,
    ``gap``, ``worst_fifth`` and ``gini``.
    """

    confusion: torch.Tensor
    nonfinite: tuple[int, ...] = ()

    def __repr__(self) -> str:
        worst, value = self.worst
        return f"ClassFigures({self.total} images, average {self.average:.1%}, worst class {worst}: {value:.1%})"

    @cached_property
    def _stats(self) -> ClassStats:
        stats = ClassStats(self.confusion.shape[0])
        stats.confusion.copy_(self.confusion)
        return stats

    @cached_property
    def n(self) -> list[int]:
        """Samples of each class."""
        return [sum(counts) for counts in zip_longest(_integers(self._stats.count), self.nonfinite, fillvalue=0)]

    @cached_property
    def correct(self) -> list[int]:
        """Samples of each class that were classified right."""
        return _integers(self._stats.correct)

    @cached_property
    def cfps(self) -> list[float]:
        """Class-wise false positive score: the share of all errors that landed on each class."""
        return _floats(self._stats.cfps)

    @cached_property
    def cfns(self) -> list[float]:
        """Class-wise false negative score: the share of all errors that are missed samples of each class."""
        return _floats(self._stats.cfns)

    def to_dict(self, class_names: Sequence[str]) -> dict[str, Any]:
        """The counts and every figure as plain JSON values (an absent class's accuracy is null)."""
        scores = zip(self.cfps, self.cfns, strict=True)
        return {
            **self.summary(class_names),
            "classes": [
                {**row, "cfps": cfps, "cfns": cfns}
                for row, (cfps, cfns) in zip(self.rows(class_names), scores, strict=True)
            ],
            "confusion": self.confusion.tolist(),
            "nonfinite": list(self.nonfinite),
        }

    @classmethod
    def of(cls, label: np.ndarray, pred: np.ndarray, num_classes: int) -> ClassFigures:
        """The figures of labels and predictions, both (N,) integers; a prediction may be `NONE`."""
        named = pred != NONE
        cells = label[named].astype(np.int64) * num_classes + pred[named]
        counts = np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)
        nonfinite = np.bincount(label[~named].astype(np.int64), minlength=num_classes)
        return cls(torch.from_numpy(counts), tuple(nonfinite.tolist()) if nonfinite.any() else ())


def rho(before: ClassFigures, after: ClassFigures) -> float:
    """The relative gain of the worst class plus the relative gain or loss of the average.

    ``rho = (W' - W) / W + (A' - A) / A`` with W the worst class's accuracy and A the average, primed after. NaN when
    either is 0 before. Lee et al. 2024 (DAFA), arXiv:2401.12532.
    """
    worst, average = before.worst[1], before.average
    if worst == 0 or average == 0:
        return math.nan
    return (after.worst[1] - worst) / worst + (after.average - average) / average


def _integers(values: torch.Tensor) -> list[int]:
    return [int(v) for v in values.tolist()]


def _floats(values: torch.Tensor) -> list[float]:
    return [float(v) for v in values.tolist()]
