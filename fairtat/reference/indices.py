"""The check of class indices that the reference ops share."""

from __future__ import annotations

from torch import Tensor


def check_range(name: str, value: Tensor, classes: int) -> None:
    """Raise ValueError if a class index lies outside [0, classes). Synchronises: CPU tensors only."""
    low, high = int(value.min()), int(value.max())
    if low < 0 or high >= classes:
        raise ValueError(f"{name} must lie in [0, {classes}), got values from {low} to {high}")
