"""What follows from how many samples of each class, or of each group, were classified right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from fairtat.evaluation.metrics.intervals import wilson
from fairtat.evaluation.metrics.lowest import Lowest, lowest_accuracy

__all__ = ["Accuracies", "gini"]


class Accuracies:
    """Accuracies of disjoint sets of samples, called classes here; subclasses have ``n`` and ``correct``.

    A class without samples has accuracy NaN, interval (0, 1), and is not counted in ``worst``, ``std``, ``gap``,
    ``worst_fifth`` and ``gini``.
    """

    @property
    def n(self) -> Sequence[int]:
        """Samples of each class."""
        raise NotImplementedError

    @property
    def correct(self) -> Sequence[int]:
        """Samples of each class that were classified right."""
        raise NotImplementedError

    @cached_property
    def accuracy(self) -> list[float]:
        """``correct / n`` of each class."""
        return [c / n if n else math.nan for c, n in zip(self.correct, self.n, strict=True)]

    @cached_property
    def interval(self) -> list[tuple[float, float]]:
        """Wilson 95% interval of each class's accuracy."""
        return [wilson(c, n) for c, n in zip(self.correct, self.n, strict=True)]

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

    def summary(self, names: Sequence[str]) -> dict[str, Any]:
        """The figures over all classes as plain JSON values."""
        worst, value = self.worst
        return {
            "average": self.average,
            "worst": {
                "class": worst,
                "name": names[worst],
                "accuracy": value,
                "interval": list(self.lowest.simultaneous[worst]),
                "corrected": self.lowest.corrected,
                "lowest_interval": list(self.lowest.interval),
            },
            "worst_fifth": self.worst_fifth,
            "std": self.std,
            "gap": self.gap,
            "gini": self.gini,
        }

    def rows(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Each class as plain JSON values (an absent class's accuracy is null)."""
        return [
            {
                "class": k,
                "name": names[k],
                "n": n,
                "correct": self.correct[k],
                "accuracy": None if n == 0 else self.accuracy[k],
                "interval": list(self.interval[k]),
                "simultaneous": list(self.lowest.simultaneous[k]),
            }
            for k, n in enumerate(self.n)
        ]


def gini(accuracy: np.ndarray) -> np.ndarray:
    """Normalized Gini coefficient (draws,) of class accuracies (draws, C); see `ClassFigures.gini`."""
    count = accuracy.shape[1]
    total = accuracy.sum(axis=1)
    rank = 2 * np.arange(1, count + 1) - count - 1
    spread = np.sort(accuracy, axis=1) @ rank
    return np.asarray(np.divide(spread, (count - 1) * total, out=np.zeros_like(total), where=(total > 0) & (count > 1)))
