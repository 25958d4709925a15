"""Small convolutional networks with BatchNorm, for experiments that take seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

__all__ = ["SmallCNN", "digits_cnn", "mnist_cnn"]


class SmallCNN(nn.Module):
    """3 x 3 convolutions with BatchNorm and ReLU, then one linear layer on the last feature map.

    x (N, C_in, H, W) -> logits (N, C). The first convolution keeps the size; each later one halves it.

    Args:
        num_classes: C.
        in_channels: C_in.
        image_size: (H, W); the linear layer's size follows from it.
        widths: output channels of each convolution.
        stem_stride: stride of the first convolution; 2 makes large images four times cheaper.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: tuple[int, int],
        widths: Sequence[int],
        *,
        stem_stride: int = 1,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        height, width = image_size
        channels = in_channels
        for number, out_channels in enumerate(widths):
            stride = stem_stride if number == 0 else 2
            layers += [
                nn.Conv2d(channels, out_channels, 3, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(out_channels),
                nn.ReLU(inplace=True),
            ]
            channels = out_channels
            height, width = -(-height // stride), -(-width // stride)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels * height * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.classifier(torch.flatten(self.features(x), 1)))


def digits_cnn(num_classes: int, in_channels: int, image_size: tuple[int, int], *, width: int = 32) -> SmallCNN:
    """Three convolutions for 8 x 8 images: ``width``, 2 ``width`` and 2 ``width`` channels."""
    return SmallCNN(num_classes, in_channels, image_size, (width, 2 * width, 2 * width))


def mnist_cnn(num_classes: int, in_channels: int, image_size: tuple[int, int], *, width: int = 16) -> SmallCNN:
    """Three strided convolutions for 28 x 28 images: ``width``, 2 ``width`` and 4 ``width`` channels."""
    return SmallCNN(num_classes, in_channels, image_size, (width, 2 * width, 4 * width), stem_stride=2)
