"""The figures of an epoch by name, the same for every tracker."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from fairtat.training.events import ClassAccuracy, EpochMetrics

__all__ = ["class_tags", "figures"]


def figures(metrics: EpochMetrics, tags: Sequence[str]) -> dict[str, float]:
    """The scalars of an epoch as ``group/name``, without those that it has not; ``tags`` name the classes."""
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
        scalars |= {f"{group}/{tag}": value for tag, value in zip(tags, values or [], strict=False)}
    return {name: value for name, value in scalars.items() if value is not None}


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


def class_tags(class_names: Sequence[str]) -> list[str]:
    """Names that TensorBoard and MLflow take as they are; they refuse or replace other characters, by which two could
    become one."""
    cleaned = [re.sub(r"[^\w.-]+", "_", name) or "_" for name in class_names]
    return [f"{name}_{k}" if cleaned.count(name) > 1 else name for k, name in enumerate(cleaned)]
