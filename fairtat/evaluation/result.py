"""What an evaluation found: class-wise figures, per-sample outcomes, and their files."""

from __future__ import annotations

import io
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch

from fairtat.evaluation.intervals import wilson
from fairtat.fairness import ClassStats

FORMAT = 1
"""Version of the JSON layout; a reader refuses a newer one."""


@dataclass(frozen=True)
class AttackSettings:
    """The attack behind the robust figures; equal settings ask the same question of two models.

    ``eps`` and ``step_size`` are in pixel units. ``loss`` is maximised away from the label.
    """

    eps: float
    step_size: float
    steps: int = 20
    norm: str = "linf"
    loss: str = "ce"
    restarts: int = 1
    seed: int = 0

    def __str__(self) -> str:
        text = f"PGD-{self.steps}, {self.norm}, eps {_radius(self.eps)}, step {_radius(self.step_size)}"
        if self.restarts != 1:
            text += f", {self.restarts} restarts"
        return text

    @property
    def stem(self) -> str:
        """A file name that differs wherever the settings do."""
        parts = [f"pgd{self.steps}", self.norm, f"eps{self.eps:.6g}", f"step{self.step_size:.6g}"]
        if self.loss != "ce":
            parts.append(self.loss)
        if self.restarts != 1:
            parts.append(f"restarts{self.restarts}")
        if self.seed != 0:
            parts.append(f"seed{self.seed}")
        return "-".join(parts)


@dataclass(frozen=True, eq=False)
class ClassFigures:
    """Class-wise accuracy under one condition; every figure follows from the counts in ``confusion``.

    ``confusion`` is (C, C) int64, [label, prediction]. A class without samples has accuracy NaN, interval (0, 1), and
    takes no part in ``worst``, ``std``, ``gap`` and ``worst_fifth``.
    """

    confusion: torch.Tensor

    @cached_property
    def _stats(self) -> ClassStats:
        stats = ClassStats(self.confusion.shape[0])
        stats.confusion.copy_(self.confusion)
        return stats

    @cached_property
    def n(self) -> list[int]:
        """Samples of each class."""
        return _integers(self._stats.count)

    @cached_property
    def correct(self) -> list[int]:
        """Samples of each class that were classified right."""
        return _integers(self._stats.correct)

    @cached_property
    def accuracy(self) -> list[float]:
        """``correct / n`` of each class."""
        return _floats(self._stats.accuracy)

    @cached_property
    def interval(self) -> list[tuple[float, float]]:
        """Wilson 95% interval of each class's accuracy."""
        return [wilson(c, n) for c, n in zip(self.correct, self.n, strict=True)]

    @cached_property
    def cfps(self) -> list[float]:
        """Class-wise false positive score: the share of all errors that landed on each class."""
        return _floats(self._stats.cfps)

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

    @property
    def worst(self) -> tuple[int, float]:
        """The class of the lowest accuracy (the first on ties) and that accuracy."""
        return self._stats.worst()

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

    def to_dict(self, class_names: Sequence[str]) -> dict[str, Any]:
        """The counts and every figure as plain JSON values (an absent class's accuracy is null)."""
        worst, value = self.worst
        return {
            "average": self.average,
            "worst": {"class": worst, "name": class_names[worst], "accuracy": value},
            "worst_fifth": self.worst_fifth,
            "std": self.std,
            "gap": self.gap,
            "classes": [
                {
                    "class": k,
                    "name": class_names[k],
                    "n": n,
                    "correct": self.correct[k],
                    "accuracy": None if n == 0 else self.accuracy[k],
                    "interval": list(self.interval[k]),
                    "cfps": self.cfps[k],
                }
                for k, n in enumerate(self.n)
            ],
            "confusion": self.confusion.tolist(),
        }


@dataclass(frozen=True, eq=False)
class Samples:
    """What became of each sample: all arrays (N,) int64, in the order of evaluation."""

    sample_ids: np.ndarray
    label: np.ndarray
    clean_pred: np.ndarray
    robust_pred: np.ndarray

    def to_npz(self) -> bytes:
        """An .npz file; the two flags are stored too, for readers without fairtat."""
        file = io.BytesIO()
        arrays = {name: getattr(self, name) for name in _SAMPLE_FIELDS}
        np.savez_compressed(
            file,
            **arrays,
            clean_correct=self.correct("clean"),
            robust_correct=self.correct("robust"),
        )
        return file.getvalue()

    def correct(self, condition: str) -> np.ndarray:
        """(N,) bool: which samples were classified right under "clean" or "robust"."""
        pred = self.clean_pred if condition == "clean" else self.robust_pred
        return np.asarray(pred == self.label)

    def agree_with(self, clean: ClassFigures, robust: ClassFigures) -> bool:
        """Whether the outcomes add up to these confusion matrices."""
        classes = clean.confusion.shape[0]
        return all(
            np.array_equal(
                np.bincount(self.label * classes + pred, minlength=classes * classes),
                figures.confusion.flatten().numpy(),
            )
            for pred, figures in ((self.clean_pred, clean), (self.robust_pred, robust))
        )

    @classmethod
    def from_npz(cls, path: Path) -> Samples:
        """Read what ``to_npz`` wrote; ``ValueError`` when the file is damaged or something else."""
        try:
            with np.load(path, allow_pickle=False) as file:
                return cls(**{name: file[name] for name in _SAMPLE_FIELDS})
        except (BadZipFile, zlib.error, KeyError, EOFError, ValueError) as error:
            raise ValueError(f"{path} holds no per-sample outcomes ({error})") from error


def _radius(value: float) -> str:
    """A radius as the field writes it: 8/255 where it is one, else a decimal."""
    levels = 255 * value
    return f"{round(levels)}/255" if round(levels) and abs(levels - round(levels)) < 1e-6 else f"{value:.4g}"


def _integers(values: torch.Tensor) -> list[int]:
    return [int(v) for v in values.tolist()]


def _floats(values: torch.Tensor) -> list[float]:
    return [float(v) for v in values.tolist()]


_SAMPLE_FIELDS = ("sample_ids", "label", "clean_pred", "robust_pred")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Clean and robust accuracy of one model, class by class.

    ``source`` says where the model and the data came from, in plain JSON values; ``samples`` is None when they
    were not kept.
    """

    class_names: tuple[str, ...]
    attack: AttackSettings
    clean: ClassFigures
    robust: ClassFigures
    samples: Samples | None = None
    source: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, everything but the per-sample outcomes."""
        return {
            "format": FORMAT,
            "source": dict(self.source),
            "attack": asdict(self.attack),
            "class_names": list(self.class_names),
            "num_samples": self.clean.total,
            "clean": self.clean.to_dict(self.class_names),
            "robust": self.robust.to_dict(self.class_names),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], samples: Samples | None = None) -> Evaluation:
        """Rebuild from ``to_dict``; figures are derived again from the counts. ``ValueError`` on another layout."""
        if not isinstance(values, Mapping) or values.get("format") != FORMAT:
            found = values.get("format") if isinstance(values, Mapping) else type(values).__name__
            raise ValueError(f"not an evaluation of format {FORMAT} (found {found!r})")
        try:
            return cls(
                class_names=tuple(values["class_names"]),
                attack=AttackSettings(**values["attack"]),
                clean=ClassFigures(torch.tensor(values["clean"]["confusion"], dtype=torch.int64)),
                robust=ClassFigures(torch.tensor(values["robust"]["confusion"], dtype=torch.int64)),
                samples=samples,
                source=dict(values["source"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"evaluation lacks or misnames a field ({error})") from error

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        """Read a .json file and the .npz beside it.

        ``OSError`` when a file is missing, ``ValueError`` when one is damaged or they do not belong together.
        """
        path = Path(path)
        samples = Samples.from_npz(path.with_suffix(".npz"))
        try:
            evaluation = cls.from_dict(json.loads(path.read_text()), samples)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if not samples.agree_with(evaluation.clean, evaluation.robust):
            raise ValueError(f"{path} and its .npz disagree; evaluate again")
        return evaluation
