"""The small networks: shapes for any image size, gradients everywhere, BatchNorm present."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fairtat.models import digits_cnn, mnist_cnn


@pytest.mark.parametrize("builder", [digits_cnn, mnist_cnn])
@pytest.mark.parametrize("size", [(8, 8), (28, 28), (7, 13), (1, 1)])
@pytest.mark.parametrize("channels", [1, 3])
def test_shapes(builder, size: tuple[int, int], channels: int) -> None:
    model = builder(7, channels, size).eval()
    assert model(torch.rand(3, channels, *size)).shape == (3, 7)
    assert model(torch.rand(0, channels, *size)).shape == (0, 7)


@pytest.mark.parametrize("builder", [digits_cnn, mnist_cnn])
def test_every_parameter_and_pixel_gets_a_gradient(builder) -> None:
    model = builder(10, 1, (8, 8))
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    x = torch.rand(16, 1, 8, 8, requires_grad=True)
    model(x).logsumexp(1).sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0
    assert x.grad is not None
    assert (x.grad.flatten(1).abs().sum(1) > 0).all()


def test_width_scales_the_network() -> None:
    def count(width: int) -> int:
        return sum(p.numel() for p in digits_cnn(10, 1, (8, 8), width=width).parameters())

    # 9 w + 2 w + (18 w^2 + 4 w) + (36 w^2 + 4 w) + 10 (2 w * 2 * 2 + 1)
    for width in (4, 32):
        assert count(width) == 54 * width**2 + 99 * width + 10
