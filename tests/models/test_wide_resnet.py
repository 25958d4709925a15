"""Wide ResNets: published parameter counts, and the paper's forward pass written out with plain functions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairtat.errors import UserError
from fairtat.models import WideResNet, build, wrn28_10, wrn34_10


@pytest.mark.parametrize(("builder", "depth", "published"), [(wrn28_10, 28, 36_479_194), (wrn34_10, 34, 46_160_474)])
def test_parameter_counts(builder, depth: int, published: int) -> None:
    with torch.device("meta"):  # shapes are enough
        model = builder(10, 3)
    expected = 3 * 16 * 9
    channels = 16
    for width in (160, 320, 640):
        for block in range((depth - 4) // 6):
            expected += 2 * channels + 9 * channels * width + 2 * width + 9 * width * width
            expected += channels * width if block == 0 else 0  # 1 x 1 shortcut, in the first stage too
            channels = width
    expected += 2 * 640 + 640 * 10 + 10
    assert sum(p.numel() for p in model.parameters()) == expected == published
    assert sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in model.modules()) == depth - 3


def forward_by_hand(state: dict[str, Tensor], x: Tensor, blocks: int, activation: str) -> Tensor:
    def activated_norm(name: str, value: Tensor) -> Tensor:
        mean, var, weight, bias = (
            state[f"{name}.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
        )
        value = (value - mean) / (var + 1e-5).sqrt() * weight + bias
        return value.clamp(min=0) if activation == "relu" else value / (1 + (-value).exp())

    x = F.conv2d(x, state["stem.weight"], padding=1)
    for number in range(3 * blocks):
        name = f"stages.{number}"
        stride = 2 if number in (blocks, 2 * blocks) else 1
        activated = activated_norm(f"{name}.bn1", x)
        out = F.conv2d(activated, state[f"{name}.conv1.weight"], stride=stride, padding=1)
        out = F.conv2d(activated_norm(f"{name}.bn2", out), state[f"{name}.conv2.weight"], padding=1)
        if number % blocks == 0:
            x = F.conv2d(activated, state[f"{name}.shortcut.weight"], stride=stride)
        x = x + out
    features = activated_norm("bn", x).mean(dim=(2, 3))
    return features @ state["classifier.weight"].T + state["classifier.bias"]


@pytest.mark.parametrize(("depth", "blocks", "activation"), [(10, 1, "relu"), (16, 2, "relu"), (10, 1, "silu")])
def test_forward_against_plain_functions(depth: int, blocks: int, activation: str) -> None:
    torch.manual_seed(0)
    model = WideResNet(7, 2, depth=depth, widen=2, activation=activation).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    x = torch.rand(3, 2, 16, 12, dtype=torch.float64)
    expected = forward_by_hand(model.state_dict(), x, blocks, activation)
    torch.testing.assert_close(model(x), expected, rtol=1e-10, atol=1e-10)


def test_convolutions_start_with_the_variance_of_he() -> None:
    model = WideResNet(10, 3, depth=10, widen=4)
    weight = model.stages[1].conv2.weight.detach()  # 128 output channels, 3 x 3
    assert abs(float(weight.std()) / (2 / (9 * 128)) ** 0.5 - 1) < 0.02
    assert float(model.classifier.bias.detach().abs().max()) == 0


def test_gradients_reach_every_parameter() -> None:
    model = WideResNet(5, 3, depth=10, widen=1)
    model(torch.rand(4, 3, 8, 8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("depth", [4, 18, 30])
def test_depths_that_no_wide_resnet_has(depth: int) -> None:
    with pytest.raises(ValueError, match=rf"depth is {depth}; expected 6 n \+ 4"):
        WideResNet(10, depth=depth)


def test_an_activation_that_there_is_not() -> None:
    with pytest.raises(UserError, match="activation is 'gelu'; expected one of relu, silu"):
        build("wrn28_10", 10, widen=1, activation="gelu")
