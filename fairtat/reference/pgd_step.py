"""pgd_step: one projected step on x_adv, and the model input that follows from it."""

from __future__ import annotations

import torch
from torch import Tensor

FLOAT32_MAX = torch.finfo(torch.float32).max


@torch.no_grad()
def pgd_step_(
    x_adv: Tensor,
    grad: Tensor,
    x: Tensor,
    eps_n: Tensor | None,
    eps: float,
    step_n: Tensor | None,
    step: float,
    targeted: bool,
    norm: str,
    lo: float,
    hi: float,
    model_input: Tensor | None,
    mean: Tensor | None,
    std: Tensor | None,
    zero_grad: Tensor | None,
) -> None:
    """Update ``x_adv`` (N, ...) in place; see :func:`fairtat.ops.pgd_step_` for the equation."""
    per_sample = (-1, *[1] * (x.ndim - 1))
    radius = eps if eps_n is None else eps_n.view(per_sample)
    towards = step if step_n is None else step_n.view(per_sample)
    towards = towards if targeted else -towards

    if norm == "linf":
        sign = (grad > 0).to(x.dtype) - (grad < 0).to(x.dtype)  # 0 for NaN, unlike comparisons of sign bits
        is_zero = sign == 0
        moved = x_adv - towards * sign
        lower, upper = x - radius, x + radius
        # where, not maximum: it fixes which of two equal numbers (+0, -0) is kept, for every backend.
        lower = torch.where(lower < lo, lo, lower)
        upper = torch.where(upper > hi, hi, upper)
        moved = torch.where(moved < lower, lower, moved)
        moved = torch.where(moved > upper, upper, moved)
    else:
        # float64 inside, and a gradient beyond float32 counts as the largest of it: squares cannot overflow.
        g = grad.double().nan_to_num(0.0).clamp(-FLOAT32_MAX, FLOAT32_MAX)
        is_zero = g == 0
        offset = x_adv.double() - towards * g / (_sample_norm(g) + 1e-12) - x.double()
        length = _sample_norm(offset)
        # NaN for the whole sample where its length is not finite: a pixel is not.
        shrink = torch.where(length <= radius, 1.0, radius / length + (length - length))
        moved = (x.double() + offset * shrink).to(x.dtype)
        moved = torch.where(moved < lo, lo, moved)
        moved = torch.where(moved > hi, hi, moved)

    x_adv.copy_(moved)
    if model_input is not None:
        if mean is not None and std is not None:
            per_channel = (1, -1, *[1] * (x.ndim - 2))
            moved = (moved - mean.view(per_channel)) / std.view(per_channel)
        model_input.copy_(moved)
    if zero_grad is not None:
        zero_grad.add_(is_zero.reshape(x.shape[0], -1).all(1) if x.numel() else 0)


def _sample_norm(t: Tensor) -> Tensor:
    return t.square().sum(tuple(range(1, t.ndim)), keepdim=True).sqrt()
