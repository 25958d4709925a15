"""PreActResNet-18 against the published layer table, and pre-activation against a computation by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fairtat.models import PreActResNet, preact_resnet8, preact_resnet18
from fairtat.models.preact_resnet import PreActBlock


def test_parameter_count_follows_from_the_layer_table() -> None:
    expected = 3 * 64 * 9  # stem
    channels = 64
    for stage, width in enumerate((64, 128, 256, 512)):
        for block in range(2):
            expected += 2 * channels + channels * width * 9 + 2 * width + width * width * 9
            if stage > 0 and block == 0:
                expected += channels * width  # 1 x 1 shortcut
            channels = width
    expected += 2 * 512 + 512 * 10 + 10
    count = sum(p.numel() for p in preact_resnet18(10, 3).parameters())
    assert count == expected
    assert count == 11_172_170


def test_the_small_one_has_one_block_a_stage_behind_a_strided_stem() -> None:
    expected = 3 * 32 * 9 + (2 * 32 + 2 * 32 * 32 * 9 + 2 * 32)
    for narrow, wide in ((32, 64), (64, 128)):
        expected += 2 * narrow + narrow * wide * 9 + 2 * wide + wide * wide * 9 + narrow * wide
    model = preact_resnet8(10, 3)
    assert sum(p.numel() for p in model.parameters()) == expected + 2 * 128 + 128 * 10 + 10 == 308_266
    assert model.stages(model.stem(torch.rand(2, 3, 32, 32))).shape == (2, 128, 4, 4)


@pytest.mark.parametrize("size", [8, 32, 40])
def test_shapes_and_feature_map(size: int) -> None:
    model = PreActResNet(10, 3, width=8).eval()
    x = torch.rand(2, 3, size, size)
    assert model(x).shape == (2, 10)
    assert model.stages(model.stem(x)).shape == (2, 64, size // 8, size // 8)


@pytest.mark.parametrize(("in_channels", "out_channels", "stride"), [(4, 4, 1), (4, 6, 2)])
def test_block_normalizes_before_it_convolves(in_channels: int, out_channels: int, stride: int) -> None:
    block = PreActBlock(in_channels, out_channels, stride).eval()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            module.running_mean.normal_()
    x = torch.randn(2, in_channels, 6, 6)

    def bn_relu(module: nn.BatchNorm2d, value: torch.Tensor) -> torch.Tensor:
        scale = module.weight / torch.sqrt(module.running_var + module.eps)
        shift = module.bias - module.running_mean * scale
        return (value * scale[:, None, None] + shift[:, None, None]).clamp(min=0)

    first = bn_relu(block.bn1, x)
    residual = F.conv2d(first, block.conv1.weight, stride=stride, padding=1)
    residual = F.conv2d(bn_relu(block.bn2, residual), block.conv2.weight, padding=1)
    identity = x if block.shortcut is None else F.conv2d(first, block.shortcut.weight, stride=stride)
    torch.testing.assert_close(block(x), residual + identity, rtol=1e-4, atol=1e-5)


def test_channels_last_gives_the_same_logits_and_gradients_reach_the_stem() -> None:
    model = PreActResNet(5, 3, (1, 1, 1, 1), width=4)
    x = torch.rand(4, 3, 16, 16)
    plain = model.eval()(x)
    torch.testing.assert_close(model(x.to(memory_format=torch.channels_last)), plain, rtol=1e-4, atol=1e-5)
    model.train()(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
