"""Whether two models differ by more than the choice of test images: a paired bootstrap of any class-wise figure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fairtat.checks import check_count
from fairtat.errors import did_you_mean
from fairtat.evaluation.metrics.accuracies import gini
from fairtat.evaluation.metrics.intervals import Difference
from fairtat.evaluation.result import Evaluation

# A figure of class accuracies (draws, C), NaN for absent classes, and class shares (C,) -> (draws,).
Figure = Callable[[np.ndarray, np.ndarray], np.ndarray]


HALF = 0.5  # of an image, in each cell
CELLS_AT_ONCE = 4_000_000


def _worst_fifth(accuracy: np.ndarray, share: np.ndarray) -> np.ndarray:
    present = np.sort(accuracy[:, share > 0], axis=1)
    return np.asarray(present[:, : math.ceil(present.shape[1] / 5)].mean(1))


FIGURES: dict[str, Figure] = {
    "worst": lambda accuracy, share: np.nanmin(accuracy, axis=1),
    "worst_fifth": _worst_fifth,
    "average": lambda accuracy, share: np.nan_to_num(accuracy) @ share,
    "gap": lambda accuracy, share: np.nanmax(accuracy, axis=1) - np.nanmin(accuracy, axis=1),
    "std": lambda accuracy, share: np.nanstd(accuracy, axis=1),
    "gini": lambda accuracy, share: gini(accuracy[:, share > 0]),
}
"""The figures that can be asked for by name; their definitions are `ClassFigures`'s."""


@dataclass(frozen=True)
class Bootstrap(Difference):
    """A figure before and after, and how certain the difference is.

    ``interval`` holds the difference in 95% of the draws (percentiles) and the one that was observed; ``p_value`` is
    two-sided: how often a draw's difference has the other sign, twice. Both cover the choice of test images, not that
    of training seeds.
    """

    figure: str
    before: float
    after: float
    interval: tuple[float, float]
    p_value: float
    draws: int

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "before": self.before,
            "after": self.after,
            "difference": self.difference,
            "interval": list(self.interval),
            "clear": self.clear,
            "p_value": self.p_value,
            "draws": self.draws,
        }


def paired_bootstrap(
    before: Evaluation,
    after: Evaluation,
    condition: str = "robust",
    figure: str | int = "worst",
    *,
    draws: int = 10_000,
    seed: int = 0,
) -> Bootstrap:
    """Resample the test images, the same ones for both models, and look at the spread of a figure's difference.

    Each class is resampled with replacement separately, so its size stays. Only four counts of a class matter (right in
    both models, in one, in the other, in none), so a draw of images is one of multinomial counts: exact, and no draw
    touches an image. Choosing the worst class again in every draw is part of the spread.

    Images are drawn from the observed ones and half an image more in each of the four cells. Without it, a class of 35
    images of which four were lost and none gained could never gain one, and its fall would be certain; with it, the
    intervals of a class agree with `newcombe`.

    Args:
        condition: A condition's name, or "robust" for the main attack of each.
        figure: A key of `FIGURES`, or a class's number for its accuracy.
        draws, seed: Number of draws, and their randomness.

    Raises:
        ValueError: an unknown figure, an absent class, or evaluations of other images or without per-sample outcomes.

    Source: Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapters 13 and 16; the half images are those
    of Agresti & Min, Statistics in Medicine 24 (2005) 729-740.
    """
    return paired_bootstraps(before, after, condition, [figure], draws=draws, seed=seed)[0]


def paired_bootstraps(
    before: Evaluation,
    after: Evaluation,
    condition: str,
    figures: Sequence[str | int],
    *,
    draws: int = 10_000,
    seed: int = 0,
) -> list[Bootstrap]:
    """`paired_bootstrap` of several figures from the same draws."""
    a, b = before.samples, after.samples
    if a is None or b is None:
        raise ValueError("a bootstrap needs the per-sample outcomes (the .npz file) of both evaluations")
    if not (np.array_equal(a.sample_ids, b.sample_ids) and np.array_equal(a.label, b.label)):
        raise ValueError("the evaluations are of different images, so there are no pairs to resample")
    check_count("draws", draws, 1)
    classes = before.num_classes
    n = np.bincount(a.label, minlength=classes)
    share = n / n.sum()
    wanted = [_figure(figure, n) for figure in figures]

    # Cells of each class: both right, only the first, only the second, neither.
    cell = np.where(a.correct(condition), 0, 2) + np.where(b.correct(condition), 0, 1)
    counts = np.bincount(4 * a.label + cell, minlength=4 * classes).reshape(classes, 4)
    probability = (counts + HALF) / (n + 4 * HALF)[:, None]
    random = np.random.default_rng(seed)
    parts: list[list[np.ndarray]] = [[] for _ in wanted]
    with np.errstate(invalid="ignore"):
        # In chunks, so that 1,000 classes do not need gigabytes.
        for start in range(0, draws, most := max(1, CELLS_AT_ONCE // (4 * classes))):
            drawn = random.multinomial(n, probability, (min(most, draws - start), classes))
            accuracy = [_accuracy(drawn, n, model) for model in (0, 1)]
            for found, (_, compute) in zip(parts, wanted, strict=True):
                found.append(compute(accuracy[1], share) - compute(accuracy[0], share))
        observed = [_accuracy(counts[None], n, model) for model in (0, 1)]
        values = [[float(compute(each, share)[0]) for each in observed] for _, compute in wanted]
    return [
        _bootstrap(name, before_after[0], before_after[1], np.concatenate(found))
        for (name, _), before_after, found in zip(wanted, values, parts, strict=True)
    ]


def _bootstrap(name: str, before: float, after: float, differences: np.ndarray) -> Bootstrap:
    draws = len(differences)
    low, high = np.percentile(differences, (2.5, 97.5))
    # One more in both counts: no finite number of draws proves a certainty.
    against = (min((differences <= 0).sum(), (differences >= 0).sum()) + 1) / (draws + 1)
    return Bootstrap(
        figure=name,
        before=before,
        after=after,
        interval=(min(float(low), after - before), max(float(high), after - before)),
        p_value=min(1.0, 2 * float(against)),
        draws=draws,
    )


def _accuracy(cells: np.ndarray, n: np.ndarray, model: int) -> np.ndarray:
    """(draws, C) from cells (draws, C, 4): the first model is right in cells 0 and 1, the second in 0 and 2."""
    return np.asarray((cells[..., 0] + cells[..., 1 + model]) / n)


def _figure(figure: str | int, n: np.ndarray) -> tuple[str, Figure]:
    if isinstance(figure, str):
        if figure not in FIGURES:
            raise ValueError(f"no figure is called {figure!r}{did_you_mean(figure, FIGURES)}")
        return figure, FIGURES[figure]
    if not 0 <= figure < len(n) or n[figure] == 0:
        raise ValueError(f"figure is class {figure}, of which there are no images")
    return f"class {figure}", lambda accuracy, share: accuracy[:, figure]
