"""Two or more evaluations side by side: which classes gained or lost, and what is only noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fairtat.evaluation.attacks.settings import AttackSettings
from fairtat.evaluation.metrics.bootstrap import Bootstrap, paired_bootstraps
from fairtat.evaluation.metrics.intervals import Difference, newcombe
from fairtat.evaluation.result import Evaluation
from fairtat.evaluation.samples import Samples
from fairtat.evaluation.text.story import against_baseline

CHOOSING = ("worst", "worst_fifth", "gap", "std", "gini")
"""Figures that choose or weigh classes by their accuracy, for which only a bootstrap gives intervals."""


EvaluationSet = tuple[str, tuple[str, ...], np.ndarray, np.ndarray]
"""What evaluations must have in common: a name for messages, class names, sample ids (N,) and labels (N,)."""


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
    """Evaluations of the same attack on the same images; the first one is the baseline.

    One rule for all that is said of a difference, in tables, sentences, pictures and files: it is beyond noise where
    its 95% interval excludes 0 (`Difference.clear`). A class and the average have Newcombe's interval; figures that
    choose their classes, such as the worst one, have that of a bootstrap in which other images may choose others.
    """

    evaluations: Mapping[str, Evaluation]

    def __post_init__(self) -> None:
        if len(self.evaluations) < 2:
            raise ValueError(f"a comparison needs at least two evaluations, got {len(self.evaluations)}")
        for name in self.names[1:]:
            _check_comparable(self.names[0], self.baseline, name, self.evaluations[name])

    def __repr__(self) -> str:
        from fairtat.evaluation.text.table import as_text, comparison_table  # a table is made of what it shows

        return as_text([comparison_table(self)])

    def _repr_html_(self) -> str | None:
        """The report's table of every class, for notebooks; None without jinja2, which draws it."""
        from fairtat.evaluation.report.page import class_table

        return class_table(self.evaluations, self)

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
        return [self.change(class_name, name, condition, label == k) for k, class_name in enumerate(self.class_names)]

    def average_change(self, name: str, condition: str = "robust") -> Change:
        """The change of the accuracy over all samples."""
        return self.change("average", name, condition, np.ones_like(_samples(self.baseline).label, dtype=bool))

    def change(self, what: str, name: str, condition: str, members: np.ndarray) -> Change:
        """The change over the samples ``members`` (N,) bool, which ``what`` names, from the first run to ``name``."""
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

    def figure_change(self, name: str, figure: str) -> Difference:
        """The change of robust "average" or one of `CHOOSING` from the first run to ``name``."""
        return self.average_change(name) if figure == "average" else self.bootstraps(name)[figure]

    def bootstraps(self, name: str) -> dict[str, Bootstrap]:
        """The changes of `CHOOSING`, computed once."""
        if name not in self._bootstraps:
            found = paired_bootstraps(self.baseline, self.evaluations[name], "robust", CHOOSING)
            self._bootstraps[name] = dict(zip(CHOOSING, found, strict=True))
        return self._bootstraps[name]

    @cached_property
    def _bootstraps(self) -> dict[str, dict[str, Bootstrap]]:
        return {}

    def summary(self, name: str) -> list[str]:
        """Sentences on robust accuracy: which classes gained or lost, what is noise, how the worst class changed."""
        return against_baseline(self, name).plain

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
                    "bootstrap": {figure: drawn.to_dict() for figure, drawn in self.bootstraps(name).items()},
                    "summary": self.summary(name),
                }
                for name in self.names[1:]
            },
        }


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
    of_a, of_b = _samples(a), _samples(b)
    check_same_images(
        (name_a, a.class_names, of_a.sample_ids, of_a.label), (name_b, b.class_names, of_b.sample_ids, of_b.label)
    )
    if a.attack != b.attack:
        raise ValueError(
            f"{name_a} and {name_b} cannot be compared: they were attacked differently ({a.attack} against {b.attack})"
        )


def check_same_images(a: EvaluationSet, b: EvaluationSet) -> None:
    """Refuse to compare runs on different classes or images, with a ``ValueError`` that names both."""
    (name_a, classes_a, ids_a, label_a), (name_b, classes_b, ids_b, label_b) = a, b
    pair = f"{name_a} and {name_b} cannot be compared"
    if classes_a != classes_b:
        raise ValueError(
            f"{pair}: their classes differ ({_some(classes_a)} against {_some(classes_b)}); "
            "were they trained on the same data?"
        )
    if not (np.array_equal(ids_a, ids_b) and np.array_equal(label_a, label_b)):
        raise ValueError(f"{pair}: they were evaluated on different images ({len(label_a)} against {len(label_b)})")


def _samples(evaluation: Evaluation) -> Samples:
    if evaluation.samples is None:
        raise ValueError("a comparison needs the per-sample outcomes (the .npz file) of every evaluation")
    return evaluation.samples


def _some(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:4])
    return f"{len(names)}: {shown}" + (", ..." if len(names) > 4 else "")
