"""Input gradients as convolutions, against autograd's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fairtat.engines.compiled.convolution import convolution_input_gradient

# (size, kernel, stride, padding, dilation, groups, channels in)
CASES = [
    ((8, 8), (3, 3), (1, 1), (1, 1), (1, 1), 1, 6),
    ((7, 9), (3, 5), (1, 1), (0, 2), (1, 1), 1, 6),
    ((9, 9), (3, 3), (1, 1), (2, 2), (2, 2), 1, 6),
    ((9, 9), (3, 3), (1, 1), (1, 1), (3, 3), 3, 6),
    ((8, 8), (3, 3), (1, 1), (1, 1), (1, 1), 6, 6),  # depthwise
    ((8, 8), (1, 1), (1, 1), (0, 0), (1, 1), 2, 6),
    ((6, 6), (1, 1), (1, 1), (2, 2), (1, 1), 1, 6),  # more padding than kernel
    ((8, 8), (3, 3), (2, 2), (1, 1), (1, 1), 1, 6),
    ((9, 8), (3, 3), (2, 2), (1, 1), (1, 1), 1, 6),
    ((8, 8), (1, 1), (2, 2), (0, 0), (1, 1), 1, 6),
    ((11, 10), (3, 3), (2, 3), (1, 0), (2, 1), 2, 6),
    ((8, 8), (4, 4), (4, 4), (0, 0), (1, 1), 1, 6),  # patches
    # few channels, strided: the sub-pixel form
    ((28, 28), (3, 3), (2, 2), (1, 1), (1, 1), 1, 1),
    ((9, 7), (3, 3), (2, 2), (1, 1), (1, 1), 1, 3),
    ((9, 9), (7, 7), (2, 2), (3, 3), (1, 1), 1, 3),
    ((12, 13), (4, 3), (4, 2), (0, 1), (1, 1), 1, 3),
    ((10, 10), (2, 2), (3, 3), (0, 0), (1, 1), 1, 2),
    ((11, 11), (3, 3), (3, 3), (0, 0), (1, 1), 1, 2),  # the last pixels are in no window
    ((6, 6), (1, 1), (2, 2), (2, 2), (1, 1), 1, 2),
    # other numbers of dimensions
    ((12,), (5,), (1,), (2,), (1,), 1, 6),
    ((12,), (5,), (3,), (1,), (2,), 2, 6),
    ((5, 6, 7), (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1), 1, 6),
    ((5, 6, 7), (3, 3, 3), (2, 1, 2), (1, 0, 1), (1, 1, 1), 1, 2),
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
