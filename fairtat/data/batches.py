"""Batches drawn from data that already lie on the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fairtat.data.types import ImageData

__all__ = ["Batch", "batches", "num_batches"]


class Batch(NamedTuple):
    """What a training or evaluation step sees of N samples."""

    x: Tensor  # (N, C, H, W) float32 in [0, 1]
    y: Tensor  # (N,) int64
    ids: Tensor  # (N,) int64, stable over epochs, splits and batch sizes


def num_batches(samples: int, batch_size: int, *, drop_last: bool = False) -> int:
    """How many batches `batches` will draw."""
    return samples // batch_size if drop_last else -(-samples // batch_size)


def batches(data: ImageData, batch_size: int, *, seed: int | None = None, drop_last: bool = False) -> Iterator[Batch]:
    """Draw every sample once: in order, or in the permutation that ``seed`` gives (one seed an epoch).

    The permutation is made on the CPU, so that every device sees the same order; it moves to the data's device
    once, and no step waits for the device.

    Raises:
        ValueError: ``batch_size`` below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected 1 or more")
    order = None
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(data), generator=generator).to(data.device, non_blocking=True)
    for number in range(num_batches(len(data), batch_size, drop_last=drop_last)):
        span = slice(number * batch_size, (number + 1) * batch_size)
        rows = span if order is None else order[span]
        yield Batch(data.floats(data.images[rows]), data.labels[rows], data.ids[rows])
