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
from fairtat.evaluation import Evaluation
from fairtat.files import parse_json, sealed_json, write_atomic
from fairtat.study.plan import Cell, Judge, Study, settings_of

__all__ = ["FORMAT", "Entry", "Results"]

FORMAT = 1


@dataclass(frozen=True, eq=False)
class Entry:
    """One model's outcome.

    Attributes:
        correct: (N,) bool under each condition: "clean", "robust" and every attack of the judge.
        radius: mean radius of training over the last epoch's classes, in pixel units.
        values: the other things that the file says: seconds, commit, device, warnings.
    """

    arm: str
    factor: float
    seed: int
    correct: Mapping[str, np.ndarray]
    radius: float
    values: Mapping[str, Any]


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
            "settings": {},
            "cells": {},
        }
        if path.exists():
            found = parse_json(path.read_bytes(), path)
            for key in ("format", "study", "judge"):
                if found.get(key) != self._content[key]:
                    raise UserError(
                        f"{path}: {key} is {found.get(key)!r}, but this study has {self._content[key]!r}; "
                        "choose another --results"
                    )
            self._content = found
            for arm in study.arms:
                self._check_settings(arm.name, settings_of(arm.config))

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

    def __contains__(self, cell: Cell) -> bool:
        return cell.name in self._content["cells"]

    def entries(self) -> list[Entry]:
        """The models of the study that are there, in its order."""
        found = []
        for cell in self.study.cells():
            values = self._content["cells"].get(cell.name)
            if values is not None:
                correct = {name: _bits(text, len(self.labels)) for name, text in values["correct"].items()}
                found.append(Entry(cell.arm.name, cell.factor, cell.seed, correct, values["radius"], values))
        return found

    def add(
        self, cell: Cell, evaluation: Evaluation, epochs: Sequence[Mapping[str, Any]], environment: Mapping[str, Any]
    ) -> None:
        """Put a model's outcome in its place and write the file.

        Raises:
            UserError: the model was judged on other images than those before it.
        """
        samples = evaluation.samples
        assert samples is not None
        labels = _packed(samples.label)
        if self._content["labels"] is None:
            self._content["labels"] = labels
            self._content["class_names"] = list(evaluation.class_names)
        elif labels != self._content["labels"]:
            raise UserError(f"{cell.name} was judged on other images than the models in {self.path}")
        worst, value = evaluation.robust.worst
        radii = [radius for radius in epochs[-1]["class_eps"] if radius is not None]
        conditions = ("clean", "robust", *self.study.judge.attacks)
        self._content["settings"][cell.arm.name] = settings_of(cell.arm.config)
        self._content["cells"][cell.name] = {
            "correct": {name: _packed_bits(samples.correct(name)) for name in conditions if name in _names(samples)},
            "radius": math.fsum(radii) / len(radii),
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


def _names(samples: Any) -> set[str]:
    return {"robust", *samples.names}


def _packed(labels: np.ndarray) -> str:
    return base64.b64encode(labels.astype("<u2").tobytes()).decode()


def _integers(text: str | None) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text or ""), "<u2").astype(np.int64)


def _packed_bits(correct: np.ndarray) -> str:
    return base64.b64encode(np.packbits(correct).tobytes()).decode()


def _bits(text: str, count: int) -> np.ndarray:
    return np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=count).astype(bool)
