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

from fairtat.evaluation.metrics.intervals import wilson
from fairtat.evaluation.metrics.lowest import Lowest, lowest_accuracy
from fairtat.evaluation.samples import NONE
from fairtat.fairness import ClassStats


@dataclass(frozen=True, eq=False)
class ClassFigures:
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
    def accuracy(self) -> list[float]:
        """``correct / n`` of each class."""
        return [c / n if n else math.nan for c, n in zip(self.correct, self.n, strict=True)]

    @cached_property
    def interval(self) -> list[tuple[float, float]]:
        """Wilson 95% interval of each class's accuracy."""
        return [wilson(c, n) for c, n in zip(self.correct, self.n, strict=True)]

    @cached_property
    def cfps(self) -> list[float]:
        """Class-wise false positive score: the share of all errors that landed on each class."""
        return _floats(self._stats.cfps)

    @cached_property
    def cfns(self) -> list[float]:
        """Class-wise false negative score: the share of all errors that are missed samples of each class."""
        return _floats(self._stats.cfns)

    @cached_property
    def _present(self) -> list[float]:
        return sorted(a for a in self.accuracy if not math.isnan(a))

    @property
    def total(self) -> int:
        """Samples of all classes."""
        return sum(self.n)

    @property
    def average(self) -> float:
        """Accuracy over all samples."""
        return sum(self.correct) / self.total

    @cached_property
    def worst(self) -> tuple[int, float]:
        """The class of the lowest accuracy (the first on ties) and that accuracy."""
        return min(((k, a) for k, a in enumerate(self.accuracy) if not math.isnan(a)), key=lambda pair: pair[1])

    @property
    def worst_fifth(self) -> float:
        """Mean accuracy of the worst 20% of the classes, rounded up to whole classes."""
        share = self._present[: math.ceil(len(self._present) / 5)]
        return sum(share) / len(share)

    @property
    def std(self) -> float:
        """Standard deviation of the class accuracies (over C, not C - 1: the classes are all there are)."""
        mean = sum(self._present) / len(self._present)
        return math.sqrt(sum((a - mean) ** 2 for a in self._present) / len(self._present))

    @property
    def gap(self) -> float:
        """Highest minus lowest class accuracy."""
        return self._present[-1] - self._present[0]

    @cached_property
    def gini(self) -> float:
        """Normalized Gini coefficient of the class accuracies: 0 where all are equal, 1 where one class has it all.

        ``sum_i sum_j |a_i - a_j| / (2 C (C - 1) mean(a))``; 0 for one class, and where no class has anything.

        Source: Gini 1912; the factor C / (C - 1) is Deltas's, Review of Economics and Statistics 85 (2003).
        """
        return float(gini(np.array([self._present]))[0])

    @cached_property
    def lowest(self) -> Lowest:
        """Simultaneous intervals, and what the lowest accuracy is when its bias is taken off."""
        return lowest_accuracy(self.correct, self.n)

    def to_dict(self, class_names: Sequence[str]) -> dict[str, Any]:
        """The counts and every figure as plain JSON values (an absent class's accuracy is null)."""
        worst, value = self.worst
        return {
            "average": self.average,
            "worst": {
                "class": worst,
                "name": class_names[worst],
                "accuracy": value,
                "interval": list(self.lowest.simultaneous[worst]),
                "corrected": self.lowest.corrected,
                "lowest_interval": list(self.lowest.interval),
            },
            "worst_fifth": self.worst_fifth,
            "std": self.std,
            "gap": self.gap,
            "gini": self.gini,
            "classes": [
                {
                    "class": k,
                    "name": class_names[k],
                    "n": n,
                    "correct": self.correct[k],
                    "accuracy": None if n == 0 else self.accuracy[k],
                    "interval": list(self.interval[k]),
                    "simultaneous": list(self.lowest.simultaneous[k]),
                    "cfps": self.cfps[k],
                    "cfns": self.cfns[k],
                }
                for k, n in enumerate(self.n)
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


def gini(accuracy: np.ndarray) -> np.ndarray:
    """Normalized Gini coefficient (draws,) of class accuracies (draws, C); see `ClassFigures.gini`."""
    count = accuracy.shape[1]
    total = accuracy.sum(axis=1)
    rank = 2 * np.arange(1, count + 1) - count - 1
    spread = np.sort(accuracy, axis=1) @ rank
    return np.asarray(np.divide(spread, (count - 1) * total, out=np.zeros_like(total), where=(total > 0) & (count > 1)))


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
