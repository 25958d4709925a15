"""Linear layers as a CPU runs them fastest inside a compiled graph.

``addmm`` first writes the bias into every row of its result, which for the small matrices of an MLP takes as long as
the product; as an operation of its own the addition is fused with the activation that follows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def product_and_bias(bias: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    """aten.addmm on a CPU as a product and an addition (N, K) (K, M) -> (N, M), else NotImplemented.

    The addition is written as a subtraction, which rounds alike: inductor would turn a sum back into addmm. The negated
    bias depends on parameters alone, so it is computed once per attack.
    """
    if beta != 1 or alpha != 1 or a.device.type != "cpu":
        return NotImplemented
    return torch.mm(a, b) - (-bias)
