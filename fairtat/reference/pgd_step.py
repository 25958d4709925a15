"""pgd_step: one projected step on x_adv, and the model input that follows from it."""

from __future__ import annotations

import torch
from torch import Tensor

FLOAT32_MAX = torch.finfo(torch.float32).max
L1_HALVINGS = 60  # to the last bits of a float64


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
    kept: int = 0,
) -> None:
    """Update ``x_adv`` (N, ...) in place; see :func:`fairtat.ops.pgd_step_` for the equation."""
    if velocity is not None:
        g = _finite(grad)
        _count(zero_grad, g == 0)
        # Rounded to the images' precision before the division, as in every backend.
        magnitude = g.abs().sum(tuple(range(1, g.ndim)), keepdim=True).clamp_max(FLOAT32_MAX).to(x.dtype)
        velocity.mul_(momentum).add_(g.to(x.dtype) / torch.where(magnitude == 0, 1.0, magnitude))
        pgd_step_(
            x_adv, velocity, x, eps_n, eps, step_n, step, targeted, norm, lo, hi, model_input, mean, std, None,
            kept=kept,
        )  # fmt: skip
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
    elif norm == "l1":
        g = _finite(grad)
        is_zero = g == 0
        center = x.double()
        offset = x_adv.double() - towards * _sparse_direction(g, kept) - center
        moved = (center + _into_l1_ball(offset, center, radius, lo, hi)).to(x.dtype)
        moved = torch.where(moved < lo, lo, moved)
        moved = torch.where(moved > hi, hi, moved)
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


def _sparse_direction(g: Tensor, kept: int) -> Tensor:
    """Signs of the ``kept`` largest elements of each sample, and of those that equal the smallest of them, as means."""
    if g.numel() == 0:
        return g
    magnitude = g.abs().flatten(1)
    least = magnitude.topk(kept, 1).values[:, -1:]
    sign = torch.where(magnitude >= least, g.flatten(1).sign(), 0.0)
    return (sign / sign.abs().sum(1, keepdim=True).clamp_min(1.0)).view_as(g)


def _into_l1_ball(offset: Tensor, center: Tensor, radius: float | Tensor, lo: float, hi: float) -> Tensor:
    """The nearest offsets of length ``radius`` at most for which center + offset is in the bounds.

    Each element gives up the same amount, and then what lies beyond the bounds; the amount is found by halving.
    """
    if offset.numel() == 0:
        return offset
    dims = tuple(range(1, offset.ndim))
    magnitude = offset.abs()
    room = torch.where(offset > 0, hi - center, center - lo).clamp_min(0.0)

    def left(cut: Tensor) -> Tensor:
        return torch.minimum((magnitude - cut).clamp_min(0.0), room)

    below = torch.zeros_like(magnitude.amax(dims, keepdim=True))
    too_long = left(below).sum(dims, keepdim=True) > radius
    cut = torch.where(too_long, magnitude.amax(dims, keepdim=True), below)
    for _ in range(L1_HALVINGS):
        middle = 0.5 * (below + cut)
        too_long = left(middle).sum(dims, keepdim=True) > radius
        below, cut = torch.where(too_long, middle, below), torch.where(too_long, cut, middle)
    # NaN for the whole sample where its length is not finite: a pixel is not.
    total = magnitude.sum(dims, keepdim=True)
    return left(cut) * offset.sign() + (total - total)


def _sample_norm(t: Tensor) -> Tensor:
    return t.square().sum(tuple(range(1, t.ndim)), keepdim=True).sqrt()
