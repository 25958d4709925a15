"""A multilayer perceptron: the cheapest model, for tests and for overhead measurements."""

from __future__ import annotations

from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

__all__ = ["MLP", "mlp"]


class MLP(nn.Module):
    """x (N, C_in, H, W) -> flatten -> ``depth`` x [linear, ReLU] -> linear -> logits (N, C)."""

    def __init__(self, num_classes: int, in_features: int, *, width: int = 128, depth: int = 1) -> None:
        super().__init__()
        sizes = [in_features] + [width] * depth
        hidden: list[nn.Module] = []
        for fan_in, fan_out in pairwise(sizes):
            hidden += [nn.Linear(fan_in, fan_out), nn.ReLU(inplace=True)]
        self.hidden = nn.Sequential(*hidden)
        self.classifier = nn.Linear(sizes[-1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.classifier(self.hidden(torch.flatten(x, 1))))


def mlp(num_classes: int, in_channels: int, image_size: tuple[int, int], *, width: int = 128, depth: int = 1) -> MLP:
    """The MLP for images of this size."""
    height, width_pixels = image_size
    return MLP(num_classes, in_channels * height * width_pixels, width=width, depth=depth)
