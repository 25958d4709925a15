"""The memory formats in which images come to an op."""

from __future__ import annotations

import torch
from torch import Tensor


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def width_outermost(x: Tensor) -> Tensor:
    """(N, C, H, W) stored as (N, W, C, H): dense, and neither of PyTorch's named formats."""
    return x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)


LAYOUTS = (Tensor.contiguous, channels_last, width_outermost)
