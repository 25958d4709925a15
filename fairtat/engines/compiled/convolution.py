"""Convolutions as the compiler is given them, and the gradient of one with respect to its input, written as another.

Forward convolutions are what libraries tune most, and the compiler chooses memory formats for them. With x (N, I, ...),
weight (O, I/groups, k), stride s, padding p and dilation d, the gradient is the sum of ``g[i] * weight[t]`` over all
``i*s + t*d - p == j``, and that is

* for s = 1, a convolution of g with the weight flipped in space and its channels swapped, padding ``d*(k - 1) - p``;
* for s > 1, a transposed convolution;
* for s > 1 and few channels (the first layer), better: with ``j + p = s*q + r`` and ``t = s*u + r``, the sum of
  ``g[q - u] * weight[s*u + r]`` over u, an ordinary convolution for each phase r. One convolution computes all phases
  as channels, and a pixel shuffle puts them in place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from fairtat.engines.compiled import winograd

# The phases of a kernel that the stride does not divide are padded with zero taps, which cost more the more channels.
_FEW_CHANNELS = 4


def convolution(
    x: Tensor,  # (N, I, ...)
    weight: Tensor,  # (O, I/groups, ...)
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Any:
    """aten.convolution of images in channels_last: by Winograd's algorithm where that is faster, else on such a weight.

    On a CPU inductor lays out every convolution in channels_last. A weight that is not would be copied in every step,
    which took a fifth of a ResNet-18's steps on two images. One that depends on the model alone is copied once per
    attack.
    """
    fast = winograd.convolution(x, weight, bias, stride, padding, dilation, transposed, output_padding, groups)
    if fast is not NotImplemented:
        return fast
    if weight.ndim != 4 or weight.device.type != "cpu" or weight.is_contiguous(memory_format=torch.channels_last):
        return NotImplemented
    return torch.ops.aten.convolution.default(
        x, weight.contiguous(memory_format=torch.channels_last), bias, stride, padding, dilation, transposed,
        output_padding, groups,
    )  # fmt: skip


def convolution_input_gradient(
    grad_output: Tensor,  # (N, O, ...)
    x: Tensor,  # (N, I, ...); only its shape counts
    weight: Tensor,  # (O, I/groups, ...)
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    output_mask: Sequence[bool],
) -> Any:
    """aten.convolution_backward where the input's gradient alone is asked for, else NotImplemented."""
    if transposed or list(output_mask) != [True, False, False]:
        return NotImplemented
    size, dimensions = x.shape[2:], weight.ndim - 2
    stride, padding, dilation = (list(v) * dimensions if len(v) == 1 else list(v) for v in (stride, padding, dilation))
    gradient: Tensor | None = None
    if max(stride) == 1:
        gradient = _flipped(grad_output, weight, padding, dilation, groups)
    elif dimensions == 2 and groups == 1 and max(dilation) == 1 and x.shape[1] <= _FEW_CHANNELS:
        gradient = _sub_pixel(grad_output, weight, size, stride, padding)
    if gradient is None:
        gradient = _transposed(grad_output, weight, size, stride, padding, dilation, groups)
    return gradient, None, None


def _flipped(
    grad_output: Tensor, weight: Tensor, padding: Sequence[int], dilation: Sequence[int], groups: int
) -> Tensor | None:
    own = [d * (k - 1) - p for d, k, p in zip(dilation, weight.shape[2:], padding, strict=True)]
    if min(own) < 0:
        return None  # more padding than kernel: some outputs see zeros alone
    outputs, inputs = weight.shape[:2]
    swapped = weight.reshape(groups, outputs // groups, inputs, *weight.shape[2:]).transpose(1, 2)
    swapped = swapped.reshape(groups * inputs, outputs // groups, *weight.shape[2:])
    flipped = swapped.flip(list(range(2, weight.ndim)))
    return _convolution(grad_output, flipped, [1] * len(own), own, dilation, groups)


def _transposed(
    grad_output: Tensor,
    weight: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    covered = [
        (g - 1) * s - 2 * p + d * (k - 1) + 1
        for g, s, p, d, k in zip(grad_output.shape[2:], stride, padding, dilation, weight.shape[2:], strict=True)
    ]
    unseen = [h - c for h, c in zip(size, covered, strict=True)]
    return _convolution(grad_output, weight, stride, padding, dilation, groups, unseen)


def _sub_pixel(
    grad_output: Tensor, weight: Tensor, size: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> Tensor | None:
    outputs, inputs = weight.shape[:2]
    taps = [math.ceil(k / s) for k, s in zip(weight.shape[2:], stride, strict=True)]  # of a phase: u = 0, 1, ...
    needed = [(h - 1 + p) // s + 1 for h, p, s in zip(size, padding, stride, strict=True)]  # q = 0, 1, ...
    if any(q > g + u - 1 for q, g, u in zip(needed, grad_output.shape[2:], taps, strict=True)):
        return None  # the last pixels were seen by no window
    (uh, uw), (sh, sw) = taps, stride
    full = pad(weight, [0, uw * sw - weight.shape[3], 0, uh * sh - weight.shape[2]])
    phases = full.reshape(outputs, inputs, uh, sh, uw, sw).permute(1, 3, 5, 0, 2, 4)
    phases = phases.reshape(inputs * sh * sw, outputs, uh, uw).flip([2, 3])
    out = _convolution(grad_output, phases, [1, 1], [uh - 1, uw - 1], [1, 1], 1)
    rows, columns = out.shape[2:]
    dx = out.reshape(-1, inputs, sh, sw, rows, columns).permute(0, 1, 4, 2, 5, 3)
    dx = dx.reshape(-1, inputs, rows * sh, columns * sw)
    (top, left), (height, width) = padding, size
    return dx[:, :, top : top + height, left : left + width]


def _convolution(
    x: Tensor,
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    output_padding: Sequence[int] | None = None,  # given: transposed
) -> Tensor:
    if output_padding is None:
        fast = winograd.convolution(x, weight, None, stride, padding, dilation, False, [], groups)
        if isinstance(fast, Tensor):
            return fast
    out: Tensor = torch.ops.aten.convolution.default(
        x, weight, None, stride, padding, dilation, output_padding is not None, output_padding or [0] * len(stride),
        groups,
    )  # fmt: skip
    return out
