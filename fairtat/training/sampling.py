"""Epochs whose samples are drawn class by class."""

from __future__ import annotations

import torch
from torch import Tensor

from fairtat.data.stream import Data, StreamData

__all__ = ["drawn_by_class"]


def drawn_by_class(data: Data, shares: Tensor, seed: int) -> Data:
    """As many samples as ``data`` has, each of a class drawn from ``shares``, and any sample of it alike.

    Drawn with replacement, on the CPU, so that every device and process sees the same. A sample that comes twice keeps
    its id, and so its start of the attack; how it is augmented depends on its place. Waits for the device once.

    Args:
        data: the training images.
        shares: (C,) float64 of each class, >= 0; that of a class without samples goes to the others.
        seed: of the draw.
    """
    labels = data.labels.cpu()
    count = torch.bincount(labels, minlength=data.num_classes)
    weight = (shares.cpu() / count.clamp(min=1)).index_select(0, labels)
    generator = torch.Generator().manual_seed(seed)
    index = torch.multinomial(weight, len(labels), replacement=True, generator=generator)
    resident = data.resident if isinstance(data, StreamData) else None  # decoded once, not in every epoch
    return (data if resident is None else resident).take(index.to(data.labels.device))
