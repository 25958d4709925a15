"""Two or more evaluations side by side: who gained, who paid, and what is only noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fairtat.evaluation.intervals import Difference, newcombe
from fairtat.evaluation.result import Evaluation
from fairtat.evaluation.samples import Samples
from fairtat.evaluation.settings import AttackSettings

LISTED = 5
"""Classes named in a sentence before it says how many more there are."""


@dataclass(frozen=True)
class Change(Difference):
    """An accuracy in the first run and in another; ``interval`` is Newcombe's paired 95% interval of the difference."""

    name: str
    n: int
    before: float
    after: float
    interval: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Comparison:
    """Evaluations of the same attack on the same images; the first one is the baseline."""

    evaluations: Mapping[str, Evaluation]

    def __post_init__(self) -> None:
        if len(self.evaluations) < 2:
            raise ValueError(f"a comparison needs at least two evaluations, got {len(self.evaluations)}")
        for name in self.names[1:]:
            _check_comparable(self.names[0], self.baseline, name, self.evaluations[name])

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(self.evaluations)

    @property
    def baseline(self) -> Evaluation:
        return self.evaluations[self.names[0]]

    @property
    def attack(self) -> AttackSettings:
        return self.baseline.attack

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.baseline.class_names

    def changes(self, name: str, condition: str = "robust") -> list[Change]:
        """Each class's change of clean or robust accuracy from the first run to ``name``."""
        label = _samples(self.baseline).label
        return [self._change(class_name, name, condition, label == k) for k, class_name in enumerate(self.class_names)]

    def average_change(self, name: str, condition: str = "robust") -> Change:
        """The change of the accuracy over all samples."""
        return self._change("average", name, condition, np.ones_like(_samples(self.baseline).label, dtype=bool))

    def _change(self, what: str, name: str, condition: str, members: np.ndarray) -> Change:
        a = _samples(self.baseline).correct(condition)[members]
        b = _samples(self.evaluations[name]).correct(condition)[members]
        n = len(a)
        return Change(
            name=what,
            n=n,
            before=int(a.sum()) / n if n else math.nan,
            after=int(b.sum()) / n if n else math.nan,
            interval=newcombe(
                both=int((a & b).sum()),
                only_a=int((a & ~b).sum()),
                only_b=int((~a & b).sum()),
                neither=int((~a & ~b).sum()),
            ),
        )

    def summary(self, name: str) -> list[str]:
        """Sentences on robust accuracy: who gained, who paid, what is noise, and what became of the worst class."""
        changes = [c for c in self.changes(name) if c.n]
        gained = sorted((c for c in changes if c.difference > 0), key=lambda c: -c.difference)
        paid = sorted((c for c in changes if c.difference < 0), key=lambda c: c.difference)
        unchanged = len(changes) - len(gained) - len(paid)
        lines = [
            f"Gained: {_listing(gained)}. Paid: {_listing(paid)}."
            + (f" Unchanged: {_classes(unchanged)}." if unchanged else ""),
            _noise(changes),
        ]
        before, after = self.baseline.robust, self.evaluations[name].robust
        (worst_before, low_before), (worst_after, low_after) = before.worst, after.worst
        now = "" if worst_before == worst_after else f"{self.class_names[worst_after]} at "
        lines.append(
            f"Worst class: {self.class_names[worst_before]} at {low_before:.1%} -> {now}{low_after:.1%} "
            f"({points(low_after - low_before)})."
        )
        average = self.average_change(name)
        lines.append(
            f"Average: {average.before:.1%} -> {average.after:.1%} ({points(average.difference)}"
            f"{'' if average.clear else ', within noise'}). "
            f"Best to worst: {100 * before.gap:.1f} -> {100 * after.gap:.1f} points apart."
        )
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Every figure of the comparison as plain JSON values."""
        return {
            "format": 1,
            "baseline": self.names[0],
            "runs": {name: evaluation.to_dict() for name, evaluation in self.evaluations.items()},
            "against_baseline": {
                name: {
                    **{
                        condition: {
                            "average": _change_dict(self.average_change(name, condition)),
                            "classes": [_change_dict(c) for c in self.changes(name, condition)],
                        }
                        for condition in ("clean", "robust")
                    },
                    "summary": self.summary(name),
                }
                for name in self.names[1:]
            },
        }


def points(difference: float) -> str:
    """A difference of accuracies in signed percentage points, one decimal."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text


def _listing(changes: list[Change]) -> str:
    if not changes:
        return "no class"
    listed = ", ".join(f"{c.name} ({points(c.difference)})" for c in changes[:LISTED])
    more = len(changes) - LISTED
    return f"{listed} and {more} more" if more > 0 else listed


def _classes(count: int) -> str:
    return f"{count} class" if count == 1 else f"{count} classes"


def _noise(changes: list[Change]) -> str:
    smallest, largest = min(c.n for c in changes), max(c.n for c in changes)
    images = f"{smallest}" if smallest == largest else f"{smallest} to {largest}"
    basis = f"with {images} images a class, one image is {100 / largest:.1f} points"
    clear = [c.name for c in changes if c.clear]
    if not clear:
        return f"No class changed by more than noise: {basis}."
    if len(clear) == len(changes):
        return f"Every change is beyond noise ({basis})."
    named = ", ".join(clear[:LISTED]) + (f" and {len(clear) - LISTED} more" if len(clear) > LISTED else "")
    return f"Beyond noise: {named}; the other changes are within it ({basis})."


def _change_dict(change: Change) -> dict[str, Any]:
    absent = change.n == 0
    return {
        "name": change.name,
        "n": change.n,
        "before": None if absent else change.before,
        "after": None if absent else change.after,
        "difference": None if absent else change.difference,
        "interval": list(change.interval),
        "clear": change.clear,
    }


def _check_comparable(name_a: str, a: Evaluation, name_b: str, b: Evaluation) -> None:
    pair = f"{name_a} and {name_b} cannot be compared"
    if a.class_names != b.class_names:
        raise ValueError(
            f"{pair}: their classes differ ({_some(a.class_names)} against {_some(b.class_names)}); "
            "were they trained on the same data?"
        )
    of_a, of_b = _samples(a), _samples(b)
    same_images = np.array_equal(of_a.sample_ids, of_b.sample_ids) and np.array_equal(of_a.label, of_b.label)
    if not same_images:
        raise ValueError(f"{pair}: they were evaluated on different images ({a.clean.total} against {b.clean.total})")
    if a.attack != b.attack:
        raise ValueError(f"{pair}: they were attacked differently ({a.attack} against {b.attack})")


def _samples(evaluation: Evaluation) -> Samples:
    if evaluation.samples is None:
        raise ValueError("a comparison needs the per-sample outcomes (the .npz file) of every evaluation")
    return evaluation.samples


def _some(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:4])
    return f"{len(names)}: {shown}" + (", ..." if len(names) > 4 else "")
