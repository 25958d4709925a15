"""What an evaluation found: class-wise figures under every condition, per-sample outcomes, and their files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fairtat.errors import UserError, did_you_mean
from fairtat.evaluation.attacks.settings import AttackSettings
from fairtat.evaluation.budget import Untried
from fairtat.evaluation.checks.finding import Finding
from fairtat.evaluation.corruptions import CorruptionSettings
from fairtat.evaluation.metrics.figures import ClassFigures
from fairtat.evaluation.samples import ROBUST, Samples
from fairtat.files import DamagedFile, parse_json, sealed_json, write_atomic
from fairtat.text import printable, printable_values

FORMAT = 2
"""Version of the JSON layout; a reader refuses any other."""

EVALUATION = "evaluation"
"""The folder of a run that holds its evaluations."""

CLEAN, WORST = "clean", "worst"
KINDS = ("clean", "attack", "sweep", "corruption", "worst")

_FIELDS = {"class_names", "conditions", "primary"}
"""A file with none of them is another kind of file, not a damaged evaluation."""


def stored_name(split: str, per_class: object = None) -> str:
    """The name of an evaluation's file: of a split, or of so many images of each of its classes."""
    return f"{split}.json" if per_class is None else f"{split}-{per_class}-per-class.json"


@dataclass(frozen=True, eq=False)
class Condition:
    """Figures under one condition.

    Attributes:
        name: "clean", an attack's short name ("pgd-20", "autoattack", "pgd-20:l2@0.5"), "gaussian_noise/3", or "worst":
            wrong as it is or under any attack that has the main attack's norm and radius.
        kind: one of `KINDS`; "sweep" is an attack at one radius of a sweep, fooled at a smaller one counted in.
        settings: None for clean and worst.
        figures: everything follows from its confusion matrix.
        attacked: images that the (last) attack really ran on; the others were decided already.
    """

    name: str
    kind: str
    settings: AttackSettings | CorruptionSettings | None
    figures: ClassFigures
    attacked: int = 0

    @property
    def confusion(self) -> torch.Tensor:
        """(C, C) int64, [label, prediction]."""
        return self.figures.confusion

    @property
    def title(self) -> str:
        """The condition for people, in one line."""
        if self.settings is not None:
            return str(self.settings)
        return "clean images" if self.kind == CLEAN else "worst case over all attacks"

    def to_dict(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Plain JSON values, figures included."""
        return {
            "name": self.name,
            "kind": self.kind,
            "title": self.title,
            "settings": None if self.settings is None else self.settings.to_dict(),
            "attacked": self.attacked,
            **self.figures.to_dict(class_names),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Condition:
        """From `to_dict`; figures are derived again from the counts."""
        settings, kind = values["settings"], values["kind"]
        read: AttackSettings | CorruptionSettings | None = None
        if settings is not None:
            read = CorruptionSettings(**settings) if kind == "corruption" else AttackSettings.from_dict(settings)
        return cls(
            name=values["name"],
            kind=kind,
            settings=read,
            figures=ClassFigures(
                torch.tensor(values["confusion"], dtype=torch.int64), tuple(values.get("nonfinite", ()))
            ),
            attacked=values["attacked"],
        )


@dataclass(frozen=True, eq=False)
class TargetedSweep:
    """Which classes can be turned into which: every other class tried as the target for every image.

    ``reached`` (C, C) int64, [label, target]: images of the label for which a point of the ball was found that is
    classified as the target; an image that is so classified as it is counts. The diagonal is 0.
    """

    settings: AttackSettings
    n: tuple[int, ...]
    reached: torch.Tensor = field(repr=False)

    @property
    def rate(self) -> torch.Tensor:
        """(C, C) float64: reached over the label's images; NaN on the diagonal and for a class without images."""
        rate = self.reached.double() / torch.tensor(self.n, dtype=torch.float64)[:, None]
        return rate.fill_diagonal_(math.nan)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"settings": self.settings.to_dict(), "n": list(self.n), "reached": self.reached.tolist()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TargetedSweep:
        """From `to_dict`."""
        reached = torch.tensor(values["reached"], dtype=torch.int64)
        return cls(AttackSettings.from_dict(values["settings"]), tuple(values["n"]), reached)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One model on one set of images, class by class, under every condition that was asked for.

    Attributes:
        conditions: "clean" first, then in the order of asking.
        primary: name of the main attack, which ``robust`` and ``attack`` refer to: the first one asked for.
        samples: what became of each image; None when that was not kept.
        targeted: the targeted sweep, if one was asked for.
        findings: reasons to doubt the figures.
        untried: what a budget did not suffice for; the conditions that are kept are upper bounds.
        source: where the model and the data came from, in plain JSON values; "fingerprint" tells models apart.
        reused, worked_out: names of the conditions whose answers were kept, and of those that were computed just now
            (and "sanity checks"); one that had been interrupted is in both. Not stored.
    """

    class_names: tuple[str, ...]
    conditions: tuple[Condition, ...]
    primary: str
    samples: Samples | None = None
    targeted: TargetedSweep | None = None
    findings: tuple[Finding, ...] = ()
    untried: tuple[Untried, ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict)
    reused: tuple[str, ...] = ()
    worked_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # Here, where every evaluation passes: names from anywhere may be printed and put in a page.
        object.__setattr__(self, "class_names", tuple(map(printable, self.class_names)))

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def __repr__(self) -> str:
        from fairtat.evaluation.text.table import (  # a table is made of what it shows, not the other way round
            as_text,
            tables,
        )

        return as_text(tables(self))

    def _repr_html_(self) -> str | None:
        """The report's table of every class, for notebooks; None without jinja2, which draws it."""
        from fairtat.evaluation.report.page import class_table

        return class_table({"": self})

    @property
    def names(self) -> tuple[str, ...]:
        """The conditions' names."""
        return tuple(condition.name for condition in self.conditions)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def condition(self, name: str) -> Condition:
        """The condition of that name ("robust": of the main attack); ``UserError`` when there is none."""
        wanted = self.primary if name == ROBUST else name
        for condition in self.conditions:
            if condition.name == wanted:
                return condition
        raise UserError(f"the evaluation has no condition {name!r}{did_you_mean(name, self.names)}")

    def of_kind(self, kind: str) -> tuple[Condition, ...]:
        """The conditions of one kind, in their order."""
        return tuple(condition for condition in self.conditions if condition.kind == kind)

    @property
    def listed(self) -> tuple[Condition, ...]:
        """The conditions for a list: without a curve's point at a radius where the attack itself is in the list."""
        attacks = [
            (_swept(each), each.settings.eps) for each in self.attacks if isinstance(each.settings, AttackSettings)
        ]
        return tuple(
            each
            for each in self.conditions
            if each.kind != "sweep"
            or not isinstance(each.settings, AttackSettings)
            or (_swept(each), each.settings.eps) not in attacks
        )

    @property
    def clean(self) -> ClassFigures:
        """Figures on the images as they are."""
        return self.condition(CLEAN).figures

    @property
    def robust(self) -> ClassFigures:
        """Figures under the main attack."""
        return self.condition(self.primary).figures

    @property
    def attack(self) -> AttackSettings:
        """The main attack; ``UserError`` when the evaluation holds none."""
        settings = self.condition(self.primary).settings
        if not isinstance(settings, AttackSettings):
            raise UserError("the evaluation holds no attack, only clean and corrupted images")
        return settings

    @property
    def attacks(self) -> tuple[Condition, ...]:
        """The attacks that were asked for, the main one first."""
        return self.of_kind("attack")

    def curve(self) -> tuple[list[float], np.ndarray, np.ndarray]:
        """Accuracy against the radius: E radii from 0 (clean) up, accuracy (E, C) of each class and (E,) on average.

        Of several sweeps it is the main attack's, or the first. Without a sweep there is the clean point alone. A class
        without images is NaN.
        """
        points = [(0.0, self.clean)]
        swept = [(_swept(condition), condition) for condition in self.of_kind("sweep")]
        main = self.condition(self.primary)
        wanted = _swept(main) if any(of == _swept(main) for of, _ in swept) else next((of for of, _ in swept), None)
        for of, condition in swept:
            if of == wanted:
                assert isinstance(condition.settings, AttackSettings)
                points.append((condition.settings.eps, condition.figures))
        points.sort(key=lambda point: point[0])
        return (
            [eps for eps, _ in points],
            np.array([figures.accuracy for _, figures in points]),
            np.array([figures.average for _, figures in points]),
        )

    def corruption_errors(self) -> dict[str, dict[int, float]]:
        """Error (1 - accuracy over all images) under each corruption, by severity."""
        errors: dict[str, dict[int, float]] = {}
        for condition in self.of_kind("corruption"):
            settings = condition.settings
            assert isinstance(settings, CorruptionSettings)
            # The first of a severity, which is the one asked for last.
            errors.setdefault(settings.corruption, {}).setdefault(settings.severity, 1 - condition.figures.average)
        return errors

    @property
    def mean_corruption_error(self) -> float | None:
        """Plain mean of the error over corruptions and severities; None without corruptions. `mce` divides first."""
        errors = [error for of_one in self.corruption_errors().values() for error in of_one.values()]
        return sum(errors) / len(errors) if errors else None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: everything except the per-sample outcomes.

        Format 2. ``source``: where model and data came from. ``class_names`` (C,). ``num_samples``. ``primary``: the
        main attack's name. ``conditions``: a list of objects with ``name``, ``kind``, ``title``, ``settings`` (null for
        clean and worst), ``attacked``, ``average``, ``worst`` {class, name, accuracy, interval, corrected,
        lowest_interval}, ``worst_fifth``, ``std``, ``gap``, ``gini``, ``classes`` (a list of {class, name, n, correct,
        accuracy or null, interval [low, high], simultaneous [low, high], cfps, cfns}),
        ``confusion`` [label][prediction] and ``nonfinite`` (C,), samples without a prediction, empty if there are none.
        ``mean_corruption_error`` or null. ``targeted``: null or {settings,
        n (C,), reached [label][target]}. ``findings``: a list of {id, severity, text}. ``untried``: a list of
        {condition, attack, images, kept} that a budget did not suffice for. Accuracies are shares, not percent.
        """
        return {
            "format": FORMAT,
            "source": dict(self.source),
            "class_names": list(self.class_names),
            "num_samples": self.clean.total,
            "primary": self.primary,
            "conditions": [condition.to_dict(self.class_names) for condition in self.conditions],
            "mean_corruption_error": self.mean_corruption_error,
            "targeted": None if self.targeted is None else self.targeted.to_dict(),
            "findings": [finding.to_dict() for finding in self.findings],
            "untried": [each.to_dict() for each in self.untried],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], samples: Samples | None = None) -> Evaluation:
        """Rebuild from ``to_dict``; figures are derived again from the counts. ``ValueError`` on another layout."""
        if not isinstance(values, Mapping) or values.get("format") != FORMAT:
            found = values.get("format") if isinstance(values, Mapping) else type(values).__name__
            raise ValueError(f"not an evaluation of format {FORMAT} (found {found!r}); evaluate again")
        if not _FIELDS & set(values):  # report.json has a format 2 too
            raise ValueError("not an evaluation, as `fairtat evaluate` writes it")
        try:
            values = printable_values(values)
            targeted = values["targeted"]
            return cls(
                class_names=tuple(values["class_names"]),
                conditions=tuple(Condition.from_dict(condition) for condition in values["conditions"]),
                primary=values["primary"],
                samples=samples,
                targeted=None if targeted is None else TargetedSweep.from_dict(targeted),
                findings=tuple(Finding(**finding) for finding in values["findings"]),
                untried=tuple(Untried(**each) for each in values.get("untried", ())),
                source=dict(values["source"]),
            )
        except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            # RuntimeError: torch, of numbers that are not counts; the others: of any other value in a field's place.
            raise ValueError(f"evaluation lacks or misnames a field ({_first_line(error)})") from error

    def save(self, path: str | Path) -> None:
        """Write ``path`` (.json) and the per-sample outcomes beside it (.npz), each atomically."""
        if self.samples is None:
            raise ValueError("an evaluation without its per-sample outcomes cannot be saved")
        path = Path(path)
        outcomes = self.samples.to_npz()
        text = sealed_json(self.to_dict(), indent=1)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Samples first: a JSON file that is there always has its samples beside it.
        write_atomic(path.with_suffix(".npz"), lambda file: file.write(outcomes))
        write_atomic(path, lambda file: file.write(text))

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        """Read a .json file and the .npz beside it.

        ``OSError`` when a file is missing, ``ValueError`` when one is damaged or they do not belong together.
        """
        path = Path(path)
        try:
            evaluation = cls.from_dict(parse_json(path.read_bytes(), path.name))
        except (DamagedFile, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error
        evaluation = replace(evaluation, samples=Samples.from_npz(path.with_suffix(".npz")))
        if not _agree(evaluation):
            raise ValueError(f"{path} and its .npz disagree; evaluate again")
        return evaluation


def _swept(condition: Condition) -> tuple[str, str, int] | None:
    """Which attack a condition is one radius of."""
    settings = condition.settings
    return (settings.name, settings.norm, settings.seed) if isinstance(settings, AttackSettings) else None


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def _agree(evaluation: Evaluation) -> bool:
    """Whether the counts are those of the per-sample outcomes."""
    samples = evaluation.samples
    assert samples is not None
    for condition in evaluation.conditions:
        if condition.name not in samples.names:
            return False
        found = ClassFigures.of(samples.label, samples.pred_of(condition.name), evaluation.num_classes)
        if not torch.equal(found.confusion, condition.confusion) or found.nonfinite != condition.figures.nonfinite:
            return False
    return True
