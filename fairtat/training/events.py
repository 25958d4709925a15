"""What a running trainer reports: events, and the figures of an epoch as numbers that a file can hold.

The trainer itself prints nothing.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fairtat.fairness import ClassStats
from fairtat.training.config import TrainConfig

__all__ = [
    "AveragedAccuracy",
    "ClassAccuracy",
    "EpochMetrics",
    "Observer",
    "RunEnd",
    "RunStart",
    "StepProgress",
    "numbers",
]


@dataclass(frozen=True)
class ClassAccuracy:
    """Accuracies in [0, 1]; None for a class without samples."""

    average: float  # right samples over all samples
    per_class: list[float | None]  # (C,)
    worst_class: int
    worst_class_name: str
    worst: float

    @classmethod
    def of(cls, stats: ClassStats, class_names: tuple[str, ...]) -> ClassAccuracy:
        """Reads the statistics back from the device: once per epoch."""
        worst_class, worst = stats.worst()
        return cls(
            average=float(stats.overall_accuracy),
            per_class=numbers(stats.accuracy),
            worst_class=worst_class,
            worst_class_name=class_names[worst_class],
            worst=worst,
        )


@dataclass(frozen=True)
class AveragedAccuracy:
    """Validation of the averaged weights."""

    clean: ClassAccuracy
    robust: ClassAccuracy


@dataclass(frozen=True)
class EpochMetrics:
    """One line of metrics.jsonl."""

    epoch: int  # finished epochs, this one included
    lr: float  # of the epoch's first step
    seconds: float  # training and validation
    train_loss: float  # mean of the objective over the samples
    train_robust: ClassAccuracy  # of the epoch's training examples, as the model was when it met them
    train_reached: float | None  # share of examples that reached their target; None for untargeted attacks
    val_clean: ClassAccuracy  # of the weights that are trained
    val_robust: ClassAccuracy
    class_eps: list[float | None]  # (C,) radii that this epoch attacked with, in pixel units
    target_weight: list[Any] | None  # (C,) or (C, C) by [label, target], normalized; None for untargeted attacks
    class_weight: list[float | None] | None = None  # (C,) weights of the cross-entropy; None: 1 for all
    averaged: AveragedAccuracy | None = None  # None without weight averaging
    data_seconds: float = 0.0  # of `seconds`, how long training has waited for images
    val_fgsm: ClassAccuracy | None = None  # under a single step of eps; None where eval.fgsm does not ask for it

    @property
    def score(self) -> float:
        """What `best` is chosen by: robust validation accuracy, average plus worst class, of the averaged weights if
        there are any, as CFA and FAIR-TAT choose (but on validation data, never on the test set)."""
        robust = self.val_robust if self.averaged is None else self.averaged.robust
        return robust.average + robust.worst

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class RunStart:
    """Everything is checked and the run folder exists; the first epoch to train begins."""

    path: Path
    config: TrainConfig
    class_names: tuple[str, ...]
    train_samples: int
    val_samples: int
    parameters: int
    device: torch.device
    epoch: int = 0  # finished epochs: more than 0 when a run is resumed
    processes: int = 1


@dataclass(frozen=True)
class StepProgress:
    """A training step was issued (on a GPU it may still be running)."""

    epoch: int  # the running epoch, from 1
    step: int  # steps issued in it
    steps: int  # steps in an epoch
    stats: ClassStats
    """Counts of the running epoch in this process, on the device: reading them waits for it, so read seldom."""


@dataclass(frozen=True)
class RunEnd:
    """Nothing more will be told."""

    state: Literal["finished", "interrupted", "failed"]
    """failed: an exception ends the run, such as a loss that is not finite, a full disk or one of an observer."""

    epoch: int  # finished epochs that the checkpoint holds


class Observer:
    """What a trainer tells while it trains; override what you need.

    A run calls ``on_start`` once, then for each epoch ``on_step`` after each step and ``on_epoch`` when the epoch's
    files are written, and ``on_end`` once, however it ends. A resumed run starts once more, with ``RunStart.epoch``
    above 0. All calls come from the thread that trains, one after the other, so a slow observer makes a slow run: in
    ``on_step`` read nothing from the device. An exception in an observer ends the run; the last checkpoint stays.

    In a job of several processes each tells its own observer; on the command line only the first one has any.
    """

    def on_start(self, start: RunStart) -> None:
        """Data, model and folder are there; the first epoch begins."""

    def on_step(self, progress: StepProgress) -> None:
        """A step was issued."""

    def on_epoch(self, metrics: EpochMetrics) -> None:
        """An epoch is over, and metrics.jsonl has its line."""

    def on_end(self, end: RunEnd) -> None:
        """The run is over: close what was opened. Called after ``on_start`` has been, also where that failed."""


def numbers(values: Tensor) -> list[Any]:
    """Nested list of a tensor's values, None for NaN, which JSON cannot hold."""
    return [_number(value) for value in values.tolist()]


def _number(value: Any) -> Any:
    if isinstance(value, list):
        return [_number(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
