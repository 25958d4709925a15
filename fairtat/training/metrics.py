"""The figures of one epoch, as numbers that a file can hold."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from fairtat.fairness import ClassStats

__all__ = ["ClassAccuracy", "EpochMetrics", "numbers"]


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
        """Reads the statistics back from the device: once an epoch."""
        worst_class, worst = stats.worst()
        return cls(
            average=float(stats.overall_accuracy),
            per_class=numbers(stats.accuracy),
            worst_class=worst_class,
            worst_class_name=class_names[worst_class],
            worst=worst,
        )


@dataclass(frozen=True)
class EpochMetrics:
    """One line of metrics.jsonl."""

    epoch: int  # finished epochs, this one included
    lr: float
    seconds: float  # training and validation
    train_loss: float  # mean of the objective over the samples
    train_robust: ClassAccuracy  # of the epoch's training examples, as the model was when it met them
    train_reached: float | None  # share of examples that reached their target; None for untargeted attacks
    val_clean: ClassAccuracy
    val_robust: ClassAccuracy
    class_eps: list[float | None]  # (C,) radii that this epoch attacked with, in pixel units
    target_weight: list[Any] | None  # (C,) or (C, C) by [label, target], normalised; None for untargeted attacks

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def numbers(values: Tensor) -> list[Any]:
    """Nested list of a tensor's values, None for NaN, which JSON cannot hold."""
    return [_number(value) for value in values.tolist()]


def _number(value: Any) -> Any:
    if isinstance(value, list):
        return [_number(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
