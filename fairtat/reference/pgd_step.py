"""pgd_step: one projected step on x_adv, and the model input that follows from it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fairtat.reference.definition import Written, taking

FLOAT32_MAX = torch.finfo(torch.float32).max
L1_HALVINGS = 60  # to the last bits of a float64


class PgdStepArgs(NamedTuple):
    """What a step takes."""

    x_adv: Written  # (N, ...)
    grad: Tensor  # (N, ...)
    x: Tensor  # (N, ...)
    eps_n: Tensor | None  # (N,) or None: eps
    eps: float
    step_n: Tensor | None  # (N,) or None: step
    step: float
    targeted: bool
    norm: str
    lo: float
    hi: float
    model_input: Written | None  # (N, ...)
    mean: Tensor | None  # (C,) or None: no normalization
    std: Tensor | None  # (C,)
    zero_grad: Written | None  # (N,)
    velocity: Written | None = None  # (N, ...) or None: no momentum
    momentum: float = 0.0
    kept: int = 0  # elements of a sample that a step in l1 moves


@taking(PgdStepArgs)
@torch.no_grad()
def pgd_step_(a: PgdStepArgs) -> None:
    """Update ``x_adv`` (N, ...) in place; see :func:`fairtat.ops.pgd_step_` for the equation."""
    x_adv, x, lo, hi = a.x_adv, a.x, a.lo, a.hi
    if a.velocity is not None:
        g = _finite(a.grad)
        _count(a.zero_grad, g == 0)
        # Rounded to the images' precision before the division, as in every backend.
        magnitude = g.abs().sum(tuple(range(1, g.ndim)), keepdim=True).clamp_max(FLOAT32_MAX).to(x.dtype)
        a.velocity.mul_(a.momentum).add_(g.to(x.dtype) / torch.where(magnitude == 0, 1.0, magnitude))
        pgd_step_(*a._replace(grad=a.velocity, velocity=None, momentum=0.0, zero_grad=None))
        return
    per_sample = (-1, *[1] * (x.ndim - 1))
    radius = a.eps if a.eps_n is None else a.eps_n.view(per_sample)
    towards = a.step if a.step_n is None else a.step_n.view(per_sample)
    towards = towards if a.targeted else -towards

    if a.norm == "linf":
        sign = (a.grad > 0).to(x.dtype) - (a.grad < 0).to(x.dtype)  # 0 for NaN, unlike comparisons of sign bits
        is_zero = sign == 0
        moved = x_adv - towards * sign
        lower, upper = x - radius, x + radius
        # where, not maximum: it fixes which of two equal numbers (+0, -0) is kept, for every backend.
        lower = torch.where(lower < lo, lo, lower)
        upper = torch.where(upper > hi, hi, upper)
        moved = torch.where(moved < lower, lower, moved)
        moved = torch.where(moved > upper, upper, moved)
    elif a.norm == "l1":
        g = _finite(a.grad)
        is_zero = g == 0
        center = x.double()
        offset = x_adv.double() - towards * _sparse_direction(g, a.kept) - center
        moved = (center + _into_l1_ball(offset, center, radius, lo, hi)).to(x.dtype)
        moved = torch.where(moved < lo, lo, moved)
        moved = torch.where(moved > hi, hi, moved)
    else:
        # float64 inside, and a gradient beyond float32 counts as the largest of it: squares cannot overflow.
        g = _finite(a.grad)
        is_zero = g == 0
        offset = x_adv.double() - towards * g / (_sample_norm(g) + 1e-12) - x.double()
        length = _sample_norm(offset)
        # NaN for the whole sample where its length is not finite: a pixel is not.
        shrink = torch.where(length <= radius, 1.0, radius / length + (length - length))
        moved = (x.double() + offset * shrink).to(x.dtype)
        moved = torch.where(moved < lo, lo, moved)
        moved = torch.where(moved > hi, hi, moved)

    x_adv.copy_(moved)
    if a.model_input is not None:
        a.model_input.copy_(normalized(moved, a.mean, a.std))
    _count(a.zero_grad, is_zero)


def normalized(images: Tensor, mean: Tensor | None, std: Tensor | None) -> Tensor:
    """``(images - mean[c]) / std[c]``, or the images themselves where there is no mean and std."""
    if mean is None or std is None:
        return images
    per_channel = (1, -1, *[1] * (images.ndim - 2))
    return (images - mean.view(per_channel)) / std.view(per_channel)


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
