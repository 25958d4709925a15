"""A study's results: which images each model got right, with what is needed to find the model again, in one file."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fairtat.errors import UserError
from fairtat.evaluation import Evaluation, Samples
from fairtat.files import parse_json, sealed_json, write_atomic
from fairtat.study.judge import CORRUPTED, Judge, Subset
from fairtat.study.plan import Cell, Study, settings_of

__all__ = ["FORMAT", "Entry", "Results", "class_accuracies"]

FORMAT = 1
OF_SUBSET = "correct_of_subset"
"""Apart from the verdicts on all images, so that neither is read as the other if the judge changes."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One model's outcome.

    Attributes:
        correct: (N,) under each condition of the judge. Bool, but for "corrupted", the share of corruptions under which
            an image is right; and NaN for images that are not in the judge's subset, under its attacks.
        radius: mean radius of training over the last epoch's classes, in pixel units.
        values: the other things that the file says: seconds, commit, device, warnings.
    """

    arm: str
    factor: float
    seed: int
    correct: Mapping[str, np.ndarray]
    radius: float
    values: Mapping[str, Any]


def class_accuracies(correct: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """(C,): of each class, over the images of ``correct`` (N,) that are not NaN; NaN where there are none."""
    judged = ~np.isnan(correct)
    n = np.bincount(labels[judged], minlength=classes)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.bincount(labels[judged], correct[judged], minlength=classes) / n)


class Results:
    """The results file of a study; `add` writes it."""

    def __init__(self, study: Study, path: Path) -> None:
        """Reads ``path`` if it exists.

        Raises:
            UserError: it is damaged, of another study or format, or an arm in it was trained with other settings.
        """
        self.study = study
        self.path = path
        self._content: dict[str, Any] = {
            "format": FORMAT,
            "study": study.name,
            "judge": _record(study.judge),
            "class_names": None,
            "labels": None,
            "subset": None,
            "settings": {},
            "passes": {},
            "cells": {},
        }
        if path.exists():
            found = parse_json(path.read_bytes(), path)
            for key in ("format", "study", "judge"):
                stored, own = found.get(key), self._content[key]
                if stored != own and not (key == "judge" and _is_more(own, stored)):
                    raise UserError(
                        f"{path}: {key} is {stored!r}, but this study has {own!r}; choose another --results"
                    )
            self._content = {**self._content, **found, "judge": self._content["judge"]}
            self._check_subset()
            for arm in study.arms:
                self._check_settings(arm.name, settings_of(arm.config))

    def _check_subset(self) -> None:
        found, wanted = self._content["subset"], self.study.judge.subset
        if found and wanted and found["per_class"] != wanted.per_class:
            raise UserError(
                f"{self.path}: its subset has {found['per_class']} images of each class, but this study's has "
                f"{wanted.per_class}; choose another --results"
            )

    def _check_settings(self, arm: str, wanted: Mapping[str, Any]) -> None:
        stored = self._content["settings"].get(arm, {})
        for key, value in wanted.items():
            if key in stored and stored[key] != value:
                raise UserError(
                    f"{self.path}: arm {arm}: {key} is {stored[key]!r}, but this study has {value!r}; "
                    "choose another --results, or name the arm differently"
                )

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self._content["class_names"] or ())

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64."""
        return _integers(self._content["labels"])

    @property
    def subset(self) -> np.ndarray | None:
        """(N,) bool: the images of the judge's subset."""
        found = self._content["subset"]
        return None if found is None else _bits(found["images"], len(self.labels))

    def __contains__(self, cell: Cell) -> bool:
        """Whether the model has been judged by all that the judge asks for now."""
        values = self._content["cells"].get(cell.name)
        if values is None:
            return False
        judge = self.study.judge
        of_subset = set() if judge.subset is None else set(judge.subset.attacks)
        of_all = set(judge.conditions) - {CORRUPTED} - of_subset
        return of_all <= set(values["correct"]) and of_subset <= set(values.get(OF_SUBSET, {}))

    def has_training(self, cell: Cell) -> bool:
        """Whether the file says how the model was trained; older files do not."""
        return "class_radius" in self._content["cells"].get(cell.name, {})

    def passes_of(self, arm: str) -> float | None:
        """What a step of an arm costs per image, in passes of its model forward; None if it was not counted."""
        value = self._content["passes"].get(arm)
        return None if value is None else float(value)

    def entries(self) -> list[Entry]:
        """The models of the study that are there, in its order."""
        found = []
        for cell in self.study.cells():
            values = self._content["cells"].get(cell.name)
            if values is not None:
                correct = self._correct(values)
                found.append(Entry(cell.arm.name, cell.factor, cell.seed, correct, values["radius"], values))
        return found

    def _correct(self, values: Mapping[str, Any]) -> dict[str, np.ndarray]:
        judge, subset = self.study.judge, self.subset
        stored = values["correct"]
        found = {name: _bits(stored[name], len(self.labels)) for name in judge.conditions if name in stored}
        if judge.subset is not None and subset is not None:
            of_subset = values.get(OF_SUBSET, {})
            for name in [name for name in judge.subset.attacks if name in of_subset]:
                found[name] = np.full(len(subset), np.nan, np.float32)
                found[name][subset] = _bits(of_subset[name], int(subset.sum()))
        if judge.corrupted and set(judge.corrupted) <= set(found):
            found[CORRUPTED] = np.asarray(np.mean([found[name] for name in judge.corrupted], axis=0, dtype=np.float32))
        return found

    def add(
        self,
        cell: Cell,
        evaluations: Sequence[Evaluation],
        epochs: Sequence[Mapping[str, Any]],
        environment: Mapping[str, Any],
        passes: float | None = None,
    ) -> None:
        """Put a model's outcome in its place and write the file.

        Args:
            evaluations: on all images, and on the judge's subset if it has one.
            epochs: the lines of the run's metrics.
            passes: what a step of its arm costs, if that was counted.

        Raises:
            UserError: the model was judged on other images than those before it.
        """
        evaluation, samples = evaluations[0], evaluations[0].samples
        assert samples is not None
        judge = self.study.judge
        labels = _packed(samples.label)
        if self._content["labels"] is None:
            self._content["labels"] = labels
            self._content["class_names"] = list(evaluation.class_names)
        elif labels != self._content["labels"]:
            raise UserError(f"{cell.name} was judged on other images than the models in {self.path}")
        worst, value = evaluation.robust.worst
        radii = [radius for radius in epochs[-1]["class_eps"] if radius is not None]
        conditions = ("clean", "robust", *judge.attacks, *judge.corrupted)
        correct = {name: _packed_bits(samples.correct(name)) for name in conditions}
        of_subset = {}
        if judge.subset is not None:
            of_subset = {OF_SUBSET: self._correct_of_subset(cell, judge.subset, samples, evaluations[1])}
        self._content["settings"][cell.arm.name] = settings_of(cell.arm.config)
        if passes is not None:
            self._content["passes"][cell.arm.name] = round(passes, 3)
        self._content["cells"][cell.name] = {
            "correct": correct,
            **of_subset,
            "radius": math.fsum(radii) / len(radii),
            "class_radius": epochs[-1]["class_eps"],
            "targets": _drawn(epochs[-1]["target_weight"]),
            "clean_average": evaluation.clean.average,
            "robust_average": evaluation.robust.average,
            "robust_worst": [evaluation.class_names[worst], value],
            "findings": [finding.id for finding in evaluation.findings if finding.severity != "info"],
            "seconds": round(sum(line["seconds"] for line in epochs), 1),
            **{key: environment.get(key) for key in ("device", "threads", "fairtat", "torch")},
            "commit": environment.get("git_commit"),
            "date": environment.get("started"),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        content = sealed_json(self._content, indent=1)
        write_atomic(self.path, lambda stream: stream.write(content))

    def _correct_of_subset(
        self, cell: Cell, subset: Subset, samples: Samples, evaluation: Evaluation
    ) -> dict[str, str]:
        of_subset = evaluation.samples
        assert of_subset is not None
        images = np.isin(samples.sample_ids, of_subset.sample_ids)
        found = {"per_class": subset.per_class, "images": _packed_bits(images)}
        if self._content["subset"] is None:
            self._content["subset"] = found
        elif self._content["subset"] != found or not np.array_equal(samples.sample_ids[images], of_subset.sample_ids):
            raise UserError(f"{cell.name}: its subset holds other images than those of the models in {self.path}")
        return {name: _packed_bits(of_subset.correct(name)) for name in subset.attacks}


def _drawn(weights: Sequence[Any] | None) -> list[float] | None:
    """How often each class is drawn as a target where all labels are as frequent; None for untargeted attacks.

    Args:
        weights: (C,) or (C, C) by [label, target]. A label is never its own target.
    """
    if weights is None:
        return None
    table = np.array(np.broadcast_to(np.asarray(weights, np.float64), (len(weights), len(weights))))
    np.fill_diagonal(table, 0.0)
    return [round(float(share), 6) for share in (table / table.sum(axis=1, keepdims=True)).mean(axis=0)]


def _record(judge: Judge) -> dict[str, Any]:
    """What decides the verdicts; not the engine, which all but rounding is independent of."""
    record = {
        "attacks": list(judge.attacks),
        "eps": float(judge.eps),
        "norm": judge.norm,
        "checkpoint": judge.checkpoint,
    }
    # Only where they are not the default: files that were written before these could be chosen stay valid.
    return record | {
        key: value for key, value in (("active_set", False), ("amp", "bf16")) if getattr(judge, key) == value
    }


def _is_more(judge: Mapping[str, Any], stored: Any) -> bool:
    """Whether a record differs from a file's in its attacks alone, and not in the first."""
    if not isinstance(stored, dict) or {**judge, "attacks": None} != {**stored, "attacks": None}:
        return False
    return bool(stored["attacks"]) and stored["attacks"][0] == judge["attacks"][0]


def _packed(labels: np.ndarray) -> str:
    return base64.b64encode(labels.astype("<u2").tobytes()).decode()


def _integers(text: str | None) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text or ""), "<u2").astype(np.int64)


def _packed_bits(correct: np.ndarray) -> str:
    return base64.b64encode(np.packbits(correct).tobytes()).decode()


def _bits(text: str, count: int) -> np.ndarray:
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=count).astype(bool)
