"""Declared contrasts of a study: differences between curves, with seeds and images resampled together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from fairtat.evaluation.metrics.bootstrap import FIGURES
from fairtat.study.plan import Contrast, Study
from fairtat.study.results import Entry

__all__ = ["Band", "Judged", "Outcome", "contrast_outcomes", "curve_bands", "curve_difference", "holm"]

DRAWS = 2000
BAND_DRAWS = 500


@dataclass(frozen=True)
class Outcome:
    """What a contrast came to, in points of accuracy; None where it cannot be told.

    Attributes:
        difference: mean over seeds of arm less against.
        interval: 95%, of resampled seeds and images.
        p_value, holm: two-sided, and corrected for all contrasts of the study.
        equivalent: whether the 90% interval lies within the study's margin.
        seeds: how many seeds both arms have.
        why_not: why there is no difference.
    """

    contrast: Contrast
    difference: float | None
    interval: tuple[float, float] | None
    p_value: float | None
    holm: float | None
    equivalent: bool | None
    seeds: int
    why_not: str | None = None

    @property
    def clear(self) -> bool:
        """Whether the corrected p-value is below 5%."""
        return self.holm is not None and self.holm < 0.05


class Judged(Protocol):
    """A study with what its models were judged to get right: `Results`, or runs that were not planned as a study."""

    @property
    def study(self) -> Study: ...
    @property
    def class_names(self) -> tuple[str, ...]: ...
    @property
    def labels(self) -> np.ndarray: ...
    @property
    def subset(self) -> np.ndarray | None: ...
    def entries(self) -> list[Entry]: ...


def contrast_outcomes(results: Judged, *, draws: int = DRAWS, seed: int = 0) -> list[Outcome]:
    """Every declared contrast, the primary one first.

    In each draw the test images are resampled within their classes (of each, the judge's subset and the rest by
    themselves), the same ones for all models, and the seeds of both arms together. A contrast is worked out for each
    seed from the resampled accuracies, curves and all, and averaged over the resampled seeds; its deviation from their
    mean is stretched by ``sqrt(S / (S - 1))``, without
    which S seeds would scatter too little. Intervals are percentiles. With one seed they cover the images alone.

    Source: Owen & Eckles 2012, Annals of Applied Statistics 6 (crossed resampling); Holm 1979, Scandinavian Journal of
    Statistics 6; Schuirmann 1987, J. Pharmacokinetics 15 (two one-sided tests).
    """
    study, entries = results.study, results.entries()
    if not entries or not study.contrasts:
        return []
    accuracy = _Resampled(results, draws, seed)
    found = [_outcome(study, each, entries, accuracy, seed) for each in study.contrasts]
    corrected = holm([each.p_value for each in found])
    return [Outcome(**{**vars(each), "holm": value}) for each, value in zip(found, corrected, strict=True)]


class Band(NamedTuple):
    """95% of an arm's mean curve, in points of accuracy."""

    x: np.ndarray  # (G,) clean average, where the curves of all seeds are
    low: np.ndarray  # (G,)
    high: np.ndarray  # (G,)


def curve_bands(
    results: Judged, figures: Sequence[tuple[str, str]], *, draws: int = BAND_DRAWS, seed: int = 0
) -> dict[tuple[str, tuple[str, str]], Band]:
    """The band of each arm that is a curve and each figure (condition, measure), along the clean average.

    At a clean accuracy, each seed's curve is read under resampled images, and averaged over resampled seeds, as
    `contrast_outcomes` does: the band covers single points of the curve and not all of them together. It is moved to
    lie around the curve: resampling lowers the worst of several classes, which differences of two arms hardly feel. An
    arm has none if it has fewer than two factors, no seed with all of them, or seeds whose curves share no clean
    accuracy.
    """
    entries, bands = results.entries(), dict[tuple[str, tuple[str, str]], Band]()
    accuracy = _Resampled(results, draws, seed)
    for arm in results.study.arms:
        curves = [
            curve for curve in _curves(entries, arm.name, results.study).values() if len(curve) == len(arm.factors)
        ]
        if len(arm.factors) < 2 or not curves:
            continue
        x = [np.stack([accuracy.figure(entry, "clean", "average") for entry in curve], axis=1) for curve in curves]
        low, high = max(each[0].min() for each in x), min(each[0].max() for each in x)
        if low >= high:
            continue
        grid = np.linspace(low, high, 50)
        for condition, measure in figures:
            y = [np.stack([accuracy.figure(e, condition, measure) for e in curve], axis=1) for curve in curves]
            read = [[_read(grid, *rows) for rows in zip(*each, strict=True)] for each in zip(x, y, strict=True)]
            by_seed = np.stack(read, axis=2)
            values = _over_seeds(by_seed[1:], seed)
            values += by_seed[0].mean(axis=-1) - values.mean(axis=0)
            bands[arm.name, (condition, measure)] = Band(100 * grid, *100 * np.percentile(values, (2.5, 97.5), axis=0))
    return bands


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction: the smallest of m is multiplied by m, the next by m - 1, never falling."""
    known = sorted((p, place) for place, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, (p, place) in enumerate(known):
        highest = max(highest, min(1.0, p * (len(known) - rank)))
        corrected[place] = highest
    return corrected


def curve_difference(x: np.ndarray, y: np.ndarray, against_x: np.ndarray, against_y: np.ndarray) -> float:
    """Mean vertical distance between two curves over the x that both reach: the area between them over its width.

    Args:
        x, y: (K,) points of the first curve, joined by straight lines in the order of x.
        against_x, against_y: (L,) of the other one.

    A single point is compared with the other curve at its own x. Where the curves share no x, their nearest ends are
    compared, so that resampled images which just part them do not void an answer.
    """
    order, other = np.argsort(x, kind="stable"), np.argsort(against_x, kind="stable")
    x, y, against_x, against_y = x[order], y[order], against_x[other], against_y[other]
    low, high = sorted((max(x[0], against_x[0]), min(x[-1], against_x[-1])))
    if x[-1] < against_x[0] or against_x[-1] < x[0]:
        at = np.array([(low + high) / 2])
    else:
        corners = np.concatenate([x, against_x])
        at = np.unique(np.concatenate([corners[(low < corners) & (corners < high)], [low, high]]))
    distance = np.interp(at, x, y) - np.interp(at, against_x, against_y)
    if len(at) == 1:
        return float(distance[0])
    return float(np.sum((distance[1:] + distance[:-1]) / 2 * np.diff(at)) / (high - low))


def _read(at: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A curve at some x; beyond its ends, the end."""
    order = np.argsort(x, kind="stable")
    return np.asarray(np.interp(at, x[order], y[order]))


class _Resampled:
    """Class accuracies of every model under resampled images: row 0 is the images as they are.

    Attributes:
        members: of each class, the images: those of the judge's subset first.
        counts: (draws + 1, images) of each class: how often each was drawn. Whole numbers, whose sums are exact.
    """

    def __init__(self, results: Judged, draws: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        labels = results.labels
        self.classes = len(results.class_names)
        subset = np.zeros(len(labels), bool) if results.subset is None else results.subset
        self.members, self.counts = [], []
        for k in range(self.classes):
            strata = [np.flatnonzero((labels == k) & part) for part in (subset, ~subset)]
            drawn = [_counts(random, len(stratum), draws) for stratum in strata]
            self.members.append(np.concatenate(strata))
            self.counts.append(np.hstack(drawn))
        n = np.array([len(each) for each in self.members])
        self.share = n / n.sum()
        self._kept: dict[tuple[int, str], np.ndarray] = {}

    def figure(self, entry: Entry, condition: str, measure: str) -> np.ndarray:
        """(draws + 1,) of a figure."""
        key = (id(entry), condition)
        if key not in self._kept:
            correct = entry.correct[condition].astype(np.float32)
            accuracy = np.full((len(self.counts[0]), self.classes), np.nan)
            for k, members in enumerate(self.members):
                judged = members[~np.isnan(correct[members])]
                if len(judged):  # all of the class, or the subset's, which come first
                    right = self.counts[k][:, : len(judged)] @ correct[judged]
                    accuracy[:, k] = right.astype(np.float64) / len(judged)
            self._kept[key] = accuracy
        return FIGURES[measure](self._kept[key], self.share)


def _counts(random: np.random.Generator, images: int, draws: int) -> np.ndarray:
    """(draws + 1, images): how often each image comes; once in row 0."""
    drawn = random.multinomial(images, np.full(images, 1 / images), draws) if images else np.zeros((draws, 0))
    return np.vstack([np.ones((1, images)), drawn]).astype(np.float32)


def _outcome(study: Study, contrast: Contrast, entries: Sequence[Entry], accuracy: _Resampled, seed: int) -> Outcome:
    def missing(why: str, seeds: int = 0) -> Outcome:
        return Outcome(contrast, None, None, None, None, None, seeds, why)

    arms = {name: _curves(entries, name, study) for name in (contrast.arm, contrast.against)}
    wanted = {arm.name: len(arm.factors) for arm in study.arms}
    seeds = [s for s in study.seeds if all(len(arms[name][s]) == wanted[name] for name in arms)]
    seeds = [s for s in seeds if all(contrast.condition in each.correct for name in arms for each in arms[name][s])]
    if not seeds:
        return missing("no seed of both arms is complete")
    if contrast.equal in _ALONG and _apart(contrast, [arms[name] for name in arms], seeds, accuracy):
        return missing(f"the curves have no {contrast.equal} in common", len(seeds))
    difference = _along(_ALONG[contrast.equal]) if contrast.equal in _ALONG else _at_equal_factor
    by_seed = np.stack(
        [difference(contrast, arms[contrast.arm][s], arms[contrast.against][s], accuracy) for s in seeds], axis=1
    )  # (draws + 1, seeds)
    values = 100 * _over_seeds(by_seed[1:], seed)
    observed = 100 * float(by_seed[0].mean())
    low, low90, high90, high = np.percentile(values, (2.5, 5, 95, 97.5))
    against = (min((values <= 0).sum(), (values >= 0).sum()) + 1) / (len(values) + 1)
    return Outcome(
        contrast=contrast,
        difference=observed,
        interval=(min(float(low), observed), max(float(high), observed)),
        p_value=min(1.0, 2 * float(against)),
        holm=None,
        equivalent=bool(-study.margin < min(low90, observed) and max(high90, observed) < study.margin),
        seeds=len(seeds),
    )


def _curves(entries: Sequence[Entry], arm: str, study: Study) -> dict[int, list[Entry]]:
    """The models of an arm by seed, in the order of their factors."""
    return {s: sorted((e for e in entries if (e.arm, e.seed) == (arm, s)), key=lambda e: e.factor) for s in study.seeds}


def _over_seeds(drawn: np.ndarray, seed: int) -> np.ndarray:
    """Values (draws, ..., S) averaged over S seeds, which are resampled in each draw."""
    draws, seeds = drawn.shape[0], drawn.shape[-1]
    chosen = np.random.default_rng([seed, 1]).integers(seeds, size=(draws, *[1] * (drawn.ndim - 2), seeds))
    mean = drawn.mean(axis=-1)
    stretch = math.sqrt(seeds / (seeds - 1)) if seeds > 1 else 0.0
    resampled = np.take_along_axis(drawn, np.broadcast_to(chosen, drawn.shape), axis=-1).mean(axis=-1)
    return np.asarray(mean + stretch * (resampled - mean))


def _at_equal_factor(
    contrast: Contrast, arm: Sequence[Entry], against: Sequence[Entry], accuracy: _Resampled
) -> np.ndarray:
    others = {entry.factor: entry for entry in against}
    pairs = [(entry, others[entry.factor]) for entry in arm if entry.factor in others]
    condition, measure = contrast.condition, contrast.measure
    differences = [accuracy.figure(a, condition, measure) - accuracy.figure(b, condition, measure) for a, b in pairs]
    return np.asarray(np.mean(differences, axis=0))


def _along(x_of: X) -> Callable[..., np.ndarray]:
    def difference(
        contrast: Contrast, arm: Sequence[Entry], against: Sequence[Entry], accuracy: _Resampled
    ) -> np.ndarray:
        x, against_x = (np.stack([x_of(entry, accuracy) for entry in each], axis=1) for each in (arm, against))
        y, against_y = (
            np.stack([accuracy.figure(entry, contrast.condition, contrast.measure) for entry in each], axis=1)
            for each in (arm, against)
        )
        return np.array([curve_difference(*rows) for rows in zip(x, y, against_x, against_y, strict=True)])

    return difference


X = Callable[[Entry, _Resampled], np.ndarray]
_ALONG: dict[str, X] = {
    "clean accuracy": lambda entry, accuracy: accuracy.figure(entry, "clean", "average"),
    "radius": lambda entry, accuracy: np.full(len(accuracy.counts[0]), entry.radius),
}
"""What a curve runs along."""


def _apart(
    contrast: Contrast, arms: Sequence[dict[int, list[Entry]]], seeds: Sequence[int], accuracy: _Resampled
) -> bool:
    """Whether the curves of the seeds' means share no x."""
    x_of = _ALONG[contrast.equal]
    means = [np.mean([[x_of(entry, accuracy)[0] for entry in arm[s]] for s in seeds], axis=0) for arm in arms]
    return bool(means[0].max() < means[1].min() or means[1].max() < means[0].min())
