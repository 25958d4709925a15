"""Gradients for models that round: the sign, the rounding and the step pass them on as if they were the identity.

The gradient of such an operation is zero almost everywhere, so an attack that follows gradients stands still. The
straight-through estimator (Bengio et al. 2013, arXiv:1308.3432; BPDA, Athalye et al. 2018, arXiv:1802.00420) computes
the operation in the forward pass and skips it in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_ROUNDING = frozenset(
    {
        *(torch.sign, Tensor.sign, torch.sgn, Tensor.sgn, torch.round, Tensor.round, torch.floor, Tensor.floor),
        *(torch.ceil, Tensor.ceil, torch.trunc, Tensor.trunc, torch.heaviside, Tensor.heaviside),
    }
)


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rounded: Tensor) -> Tensor:
        return rounded.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class _StraightThrough(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func in _ROUNDING and isinstance(args[0], Tensor) and args[0].requires_grad:
            return _Through.apply(args[0], out.detach())
        return out


def straight_through(model: Callable[..., Any]) -> Callable[[Tensor], Any]:
    """The model with such gradients; what it computes is the same."""

    def call(x: Tensor) -> Any:
        with _StraightThrough():
            return model(x.clone())

    return call
