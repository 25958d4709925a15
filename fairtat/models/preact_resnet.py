"""Pre-activation ResNets for small images.

Source: He, Zhang, Ren and Sun, "Identity Mappings in Deep Residual Networks", ECCV 2016 (arXiv:1603.05027), in the
form that adversarial training papers use for 32 x 32 images: a 3 x 3 stem without pooling, four stages of 64, 128, 256
and 512 channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ACTIVATIONS", "PreActResNet", "preact_resnet8", "preact_resnet18"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "silu": F.silu}


class PreActBlock(nn.Module):
    """Two 3 x 3 convolutions, each after its BatchNorm and activation, added to the identity.

    Where the shape changes, the shortcut is a 1 x 1 convolution of the *activated* input, as in the paper.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, activation: str = "relu") -> None:
        super().__init__()
        self.activation = activation
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activation = ACTIVATIONS[self.activation]
        activated = activation(self.bn1(x))
        identity = x if self.shortcut is None else self.shortcut(activated)
        out = self.conv1(activated)
        out = self.conv2(activation(self.bn2(out)))
        return cast(Tensor, out + identity)


class PreActResNet(nn.Module):
    """x (N, C_in, H, W) -> logits (N, C); H and W at least 8, any size (global average pooling).

    Args:
        num_classes: C.
        in_channels: C_in.
        blocks: residual blocks in each of the stages; (2, 2, 2, 2) is ResNet-18.
        width: channels of the first stage, doubled from stage to stage.
        stem_width: channels of the stem; None takes ``width``.
        stem_stride: 2 halves the image at once, which makes the model about four times as fast.
        activation: "relu" or "silu".

    Raises:
        ValueError: another activation.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        blocks: Sequence[int] = (2, 2, 2, 2),
        *,
        width: int = 64,
        stem_width: int | None = None,
        stem_stride: int = 1,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}; expected one of {', '.join(ACTIVATIONS)}")
        self.activation = activation
        channels = width if stem_width is None else stem_width
        self.stem = nn.Conv2d(in_channels, channels, 3, stride=stem_stride, padding=1, bias=False)
        stages: list[nn.Module] = []
        for number, depth in enumerate(blocks):
            out_channels = width * 2**number
            for block in range(depth):
                stride = 2 if number > 0 and block == 0 else 1
                stages.append(PreActBlock(channels, out_channels, stride, activation))
                channels = out_channels
        self.stages = nn.Sequential(*stages)
        self.bn = nn.BatchNorm2d(channels)
        self.classifier = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        features = ACTIVATIONS[self.activation](self.bn(self.stages(self.stem(x))))
        return cast(Tensor, self.classifier(torch.flatten(F.adaptive_avg_pool2d(features, 1), 1)))


def preact_resnet18(
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int] = (32, 32),
    *,
    width: int = 64,
    activation: str = "relu",
) -> PreActResNet:
    """PreActResNet-18: 11.17 million parameters at 10 classes and 3 channels."""
    return PreActResNet(num_classes, in_channels, width=width, activation=activation)


def preact_resnet8(
    num_classes: int,
    in_channels: int,
    image_size: tuple[int, int] = (32, 32),
    *,
    width: int = 32,
    stem_stride: int = 2,
) -> PreActResNet:
    """One block in each of three stages: 308,266 parameters at 10 classes and 3 channels, for studies on CPUs."""
    return PreActResNet(num_classes, in_channels, (1, 1, 1), width=width, stem_stride=stem_stride)
