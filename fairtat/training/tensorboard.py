"""The figures of metrics.jsonl as TensorBoard scalars, written while a run trains."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from fairtat.files import refuse_links
from fairtat.optional import optional_import
from fairtat.training.events import ClassAccuracy, EpochMetrics, Observer, RunStart, StepProgress

__all__ = ["FOLDER", "Tee", "TensorBoard"]

FOLDER = "tensorboard"
"""Folder of the events inside the run's folder."""

_LAYOUT = {
    "all classes": {
        "clean accuracy": ["Multiline", ["class clean accuracy/.*"]],
        "robust accuracy": ["Multiline", ["class robust accuracy/.*"]],
        "radius": ["Multiline", ["class radius/.*"]],
        "share of targets": ["Multiline", ["class target/.*"]],
    }
}
"""What the tab "custom scalars" draws into one chart each."""


class TensorBoard(Observer):
    """Writes to ``RUN/tensorboard``; look at it with ``tensorboard --logdir runs``.

    A resumed run continues there: points past the epoch from which it resumes are dropped.

    Raises:
        UserError: when it is made, if the package tensorboard is not installed.
    """

    def __init__(self) -> None:
        optional_import("tensorboard", purpose="logging to TensorBoard", extra="tensorboard")
        module = optional_import("torch.utils.tensorboard", purpose="logging to TensorBoard", extra="tensorboard")
        self._writer_class: Any = module.SummaryWriter
        self._writer: Any = None
        self._tags: list[str] = []

    def on_start(self, start: RunStart) -> None:
        self._tags = _tags(start.class_names)
        refuse_links(start.path / FOLDER)
        self._writer = self._writer_class(
            str(start.path / FOLDER), purge_step=start.epoch + 1 if start.epoch else None, flush_secs=3600
        )
        self._writer.add_custom_scalars(_LAYOUT)

    def on_epoch(self, metrics: EpochMetrics) -> None:
        scalars: dict[str, float | None] = {
            "training/loss": metrics.train_loss,
            "training/learning rate": metrics.lr,
            "training/targets reached": metrics.train_reached,
            "training/seconds": metrics.seconds,
            "robust accuracy/training examples": metrics.train_robust.average,
            **_accuracies("validation", metrics.val_clean, metrics.val_robust),
        }
        kept_clean, kept_robust = metrics.val_clean, metrics.val_robust
        if metrics.averaged is not None:
            kept_clean, kept_robust = metrics.averaged.clean, metrics.averaged.robust
            scalars |= _accuracies("averaged weights", kept_clean, kept_robust)
        classes: dict[str, Sequence[float | None] | None] = {
            "class clean accuracy": kept_clean.per_class,
            "class robust accuracy": kept_robust.per_class,
            "class radius": metrics.class_eps,
            "class target": _target_share(metrics.target_weight),
            "class weight": metrics.class_weight,
        }
        for group, values in classes.items():
            scalars |= {f"{group}/{tag}": value for tag, value in zip(self._tags, values or [], strict=False)}
        for tag, value in scalars.items():
            if value is not None:
                self._writer.add_scalar(tag, value, metrics.epoch)
        self._writer.flush()  # an epoch is seen when it is over, and is not lost with the process


class Tee(Observer):
    """Tells several observers, in their order."""

    def __init__(self, *observers: Observer) -> None:
        self.observers = observers

    def on_start(self, start: RunStart) -> None:
        for observer in self.observers:
            observer.on_start(start)

    def on_step(self, progress: StepProgress) -> None:
        for observer in self.observers:
            observer.on_step(progress)

    def on_epoch(self, metrics: EpochMetrics) -> None:
        for observer in self.observers:
            observer.on_epoch(metrics)


def _accuracies(where: str, clean: ClassAccuracy, robust: ClassAccuracy) -> dict[str, float | None]:
    return {
        f"clean accuracy/{where}": clean.average,
        f"robust accuracy/{where}": robust.average,
        f"worst class, robust/{where}": robust.worst,
    }


def _target_share(weight: list[Any] | None) -> list[float | None] | None:
    """(C,): of weights by [label, target], the mean over the labels."""
    if weight is None or not isinstance(weight[0], list):
        return weight
    rows = [[value or 0.0 for value in row] for row in weight]
    return [sum(column) / len(rows) for column in zip(*rows, strict=True)]


def _tags(class_names: Sequence[str]) -> list[str]:
    """Names that TensorBoard takes as they are; it would replace other characters and could make two of them one."""
    cleaned = [re.sub(r"[^\w.-]+", "_", name) or "_" for name in class_names]
    return [f"{name}_{k}" if cleaned.count(name) > 1 else name for k, name in enumerate(cleaned)]
