"""Input gradients as convolutions, against autograd's."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fairtat import fast_targeted_pgd
from fairtat.attacks import EngineFallback
from fairtat.engines.compiled import program
from fairtat.engines.compiled.convolution import convolution_input_gradient

Values = int | tuple[int, ...]


def case(
    size: tuple[int, ...], kernel: Values, *, stride: Values = 1, padding: Values = 0, dilation: Values = 1,
    groups: int = 1, channels: int = 6,
) -> tuple[Any, ...]:  # fmt: skip
    """A number stands for the same in each dimension."""
    given = (kernel, stride, padding, dilation)
    return (size, *((v,) * len(size) if isinstance(v, int) else v for v in given), groups, channels)


CASES = [
    case((8, 8), 3, padding=1),
    case((7, 9), (3, 5), padding=(0, 2)),
    case((9, 9), 3, padding=2, dilation=2),
    case((9, 9), 3, padding=1, dilation=3, groups=3),
    case((8, 8), 3, padding=1, groups=6),  # depthwise
    case((8, 8), 1, groups=2),
    case((6, 6), 1, padding=2),  # more padding than kernel
    case((8, 8), 3, stride=2, padding=1),
    case((9, 8), 3, stride=2, padding=1),
    case((8, 8), 1, stride=2),
    case((11, 10), 3, stride=(2, 3), padding=(1, 0), dilation=(2, 1), groups=2),
    case((8, 8), 4, stride=4),  # patches
    # few channels, strided: the sub-pixel form
    case((28, 28), 3, stride=2, padding=1, channels=1),
    case((9, 7), 3, stride=2, padding=1, channels=3),
    case((9, 9), 7, stride=2, padding=3, channels=3),
    case((12, 13), (4, 3), stride=(4, 2), padding=(0, 1), channels=3),
    case((10, 10), 2, stride=3, channels=2),
    case((11, 11), 3, stride=3, channels=2),  # the last pixels are in no window
    case((6, 6), 1, stride=2, padding=2, channels=2),
    # other numbers of dimensions
    case((12,), 5, padding=2),
    case((12,), 5, stride=3, padding=1, dilation=2, groups=2),
    case((5, 6, 7), 3, padding=1),
    case((5, 6, 7), 3, stride=(2, 1, 2), padding=(1, 0, 1), channels=2),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_equals_autograd(case):
    size, kernel, stride, padding, dilation, groups, inputs = case
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, inputs, *size, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(4 * groups, inputs // groups, *kernel, generator=generator, dtype=torch.float64)
    forward = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(size)]
    out = forward(x, weight, None, stride, padding, dilation, groups)
    grad = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    (expected,) = torch.autograd.grad(out, x, grad)
    none = [0] * len(size)
    actual, of_weight, of_bias = convolution_input_gradient(
        grad, x, weight, None, stride, padding, dilation, False, none, groups, [True, False, False]
    )
    assert of_weight is None
    assert of_bias is None
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("transposed", "mask"), [(True, [True, False, False]), (False, [True, True, False])])
def test_what_it_leaves_alone(transposed, mask):
    x, weight = torch.rand(2, 3, 5, 5), torch.rand(3, 3, 3, 3)
    arguments = (x, x, weight, None, [1, 1], [1, 1], [1, 1], transposed, [0, 0], 1, mask)
    assert convolution_input_gradient(*arguments) is NotImplemented


@pytest.mark.parametrize("channels", [1, 3])
def test_no_step_copies_a_weight(monkeypatch, channels):
    """Inductor lays out convolutions in channels_last; of these tiles there are too few for Winograd's algorithm."""
    seen = []

    def as_traced(graph, inputs):
        seen.append((graph, inputs))
        return graph

    monkeypatch.setattr(program, "compile_graph", as_traced)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(channels, 128, 3, padding=1), nn.ReLU(), nn.Conv2d(128, 130, 3, padding=1), nn.ReLU(),
        nn.Conv2d(130, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5),
    ).eval()  # fmt: skip
    x, target = torch.rand(2, channels, 4, 4), torch.tensor([1, 2])
    options = {"eps": 0.1, "step_size": 0.05, "steps": 1, "seed": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("error", EngineFallback)
        x_adv = fast_targeted_pgd(model, x, target, engine="compiled", **options)
    torch.testing.assert_close(x_adv, fast_targeted_pgd(model, x, target, engine="eager", **options))
    ((graph, inputs),) = seen
    given = dict(zip((n for n in graph.graph.nodes if n.op == "placeholder"), inputs, strict=True))
    weights = [n.args[1] for n in graph.graph.nodes if n.target is torch.ops.aten.convolution.default]
    assert len(weights) == 6
    for weight in weights:
        assert given[weight].is_contiguous(memory_format=torch.channels_last)
