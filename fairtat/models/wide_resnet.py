"""Wide residual networks for small images.

Source: Zagoruyko and Komodakis, "Wide Residual Networks", BMVC 2016 (arXiv:1605.07146). WRN-28-10 and WRN-34-10 are the
large models of the adversarial training literature since Madry et al. (ICLR 2018) and TRADES (ICML 2019), which leave
out the paper's dropout; so do we.
"""

from __future__ import annotations

from torch import nn

from fairtat.models.preact_resnet import PreActResNet

__all__ = ["WideResNet", "wrn28_10", "wrn34_10"]


class WideResNet(PreActResNet):
    """x (N, C_in, H, W) -> logits (N, C): a stem of 16 channels, three stages of 16k, 32k and 64k channels.

    Its blocks are `PreActBlock`. Convolutions start as He et al. (2015) have it for their fan-out, and the last bias
    at zero.

    Args:
        num_classes: C.
        in_channels: C_in.
        depth: convolutions on the longest path, 6 n + 4 for n blocks per stage.
        widen: k.
        activation: "relu", or "silu", which Gowal et al. (2020, arXiv:2010.03593) found to make such nets more robust.

    Raises:
        ValueError: a depth that is not 6 n + 4, or another activation.
    """

    def __init__(
        self, num_classes: int, in_channels: int = 3, *, depth: int = 28, widen: int = 10, activation: str = "relu"
    ) -> None:
        if depth < 10 or depth % 6 != 4:
            raise ValueError(f"depth is {depth}; expected 6 n + 4, for example 28 or 34")
        blocks = (depth - 4) // 6
        super().__init__(
            num_classes, in_channels, (blocks,) * 3, width=16 * widen, stem_width=16, activation=activation
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.classifier.bias)


def wrn28_10(
    num_classes: int,
    in_channels: int = 3,
    image_size: tuple[int, int] = (32, 32),
    *,
    widen: int = 10,
    activation: str = "relu",
) -> WideResNet:
    """WRN-28-10: 36.48 million parameters at 10 classes and 3 channels."""
    return WideResNet(num_classes, in_channels, depth=28, widen=widen, activation=activation)


def wrn34_10(
    num_classes: int,
    in_channels: int = 3,
    image_size: tuple[int, int] = (32, 32),
    *,
    widen: int = 10,
    activation: str = "relu",
) -> WideResNet:
    """WRN-34-10: 46.16 million parameters at 10 classes and 3 channels."""
    return WideResNet(num_classes, in_channels, depth=34, widen=widen, activation=activation)
