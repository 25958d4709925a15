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
    velocity: Tensor | None = None,
    momentum: float = 0.0,
) -> None:
    """Update ``x_adv`` (N, ...) in place; see :func:`fairtat.ops.pgd_step_` for the equation."""
    if velocity is not None:
        g = _finite(grad)
        _count(zero_grad, g == 0)
        # Rounded to the images' precision before the division, as in every backend.
        magnitude = g.abs().sum(tuple(range(1, g.ndim)), keepdim=True).clamp_max(FLOAT32_MAX).to(x.dtype)
        velocity.mul_(momentum).add_(g.to(x.dtype) / torch.where(magnitude == 0, 1.0, magnitude))
        pgd_step_(x_adv, velocity, x, eps_n, eps, step_n, step, targeted, norm, lo, hi, model_input, mean, std, None)
        return
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
        g = _finite(grad)
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
    _count(zero_grad, is_zero)


def _finite(grad: Tensor) -> Tensor:
    """In float64; NaN counts as 0 and an infinity as the largest float32."""
    return grad.double().nan_to_num(0.0).clamp(-FLOAT32_MAX, FLOAT32_MAX)


def _count(zero_grad: Tensor | None, is_zero: Tensor) -> None:
    """Add 1 for each sample whose elements are all zero."""
    if zero_grad is not None:
        zero_grad.add_(is_zero.reshape(len(is_zero), -1).all(1) if is_zero.numel() else 0)


def _sample_norm(t: Tensor) -> Tensor:
    return t.square().sum(tuple(range(1, t.ndim)), keepdim=True).sqrt()
