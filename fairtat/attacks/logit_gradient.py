"""The losses' gradients with respect to the logits, in operations that a compiler fuses into a kernel or two.

The definition is :func:`fairtat.reference.logit_loss`. It scatters, and it checks labels on the host; a graph wants
comparisons and selects, so where a sample's target stands is a mask here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fairtat.reference.logit_loss import DLR_EPS


def logit_gradient(
    logits: Tensor,  # (N, C)
    target: Tensor,  # (N,)
    kind: str,
    y: Tensor | None,  # (N,)
    clean_logits: Tensor | None,  # (N, C)
    kind_away: str | None = None,
    targeted: Tensor | None = None,  # (N,) bool
) -> Tensor:
    """d loss / d logits (N, C) in the logits' dtype, computed in float32 (float64 for float64 logits).

    ``targeted``: where it is false, the loss is ``kind_away``, without y.
    """
    if kind_away is not None and targeted is not None:
        towards = logit_gradient(logits, target, kind, y, clean_logits)
        return torch.where(targeted[:, None], towards, logit_gradient(logits, target, kind_away, None, clean_logits))
    z = logits.to(torch.float64 if logits.dtype == torch.float64 else torch.float32)
    if kind == "ce":
        gradient = _cross_entropy(z, target)
    elif kind == "kl":
        assert clean_logits is not None
        gradient = torch.log_softmax(z, 1).exp() - torch.log_softmax(clean_logits.to(z.dtype), 1).exp()
    elif kind == "margin":
        gradient = _one_hot(_best_other(z, target), z) - _one_hot(target, z)
    else:
        gradient = _logit_ratio(z, target, y)
    top = z.amax(1, keepdim=True)
    return (gradient + (top - top)).to(logits.dtype)  # NaN where the row has no softmax


def differentiated(
    function: Callable[[Tensor, Tensor], Tensor],
    logits: Tensor,  # (N, C)
    goal: Tensor,  # (N,)
) -> tuple[Tensor, Tensor]:
    """A function's losses (N,) and their gradients (N, C), by autograd.

    Raises:
        TypeError, ValueError: it returned something else than a number for each sample.
    """
    with torch.enable_grad():
        leaf = logits.detach().requires_grad_()
        loss = function(leaf, goal)
        if not isinstance(loss, Tensor) or not loss.is_floating_point():
            kind = loss.dtype if isinstance(loss, Tensor) else type(loss).__name__
            raise TypeError(f"loss must return a floating-point tensor (N,), got {kind}")
        if tuple(loss.shape) != (len(logits),):
            raise ValueError(
                f"loss must return one value for each of the {len(logits)} samples, got shape {tuple(loss.shape)}"
            )
        if not loss.requires_grad:
            raise ValueError("loss must depend on the logits, got a value without a gradient")
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    return loss.detach(), gradient


def _cross_entropy(z: Tensor, target: Tensor) -> Tensor:
    """softmax(z) - onehot(target); the target's entry is minus the sum of the others, which does not cancel."""
    is_target = _is(target, z)
    others = torch.where(is_target, 0.0, torch.softmax(z, 1))
    return torch.where(is_target, -others.sum(1, keepdim=True), others)


def _logit_ratio(z: Tensor, target: Tensor, y: Tensor | None) -> Tensor:
    """The quotient rule for ``(z_plus - z_target) / scale``, scale a difference of sorted logits."""
    order = torch.sort(z, dim=1, descending=True, stable=True).indices
    first, third = order[:, 0], order[:, 2]
    plus = _best_other(z, target) if y is None else y
    gap = _pick(z, plus) - _pick(z, target)
    spread = _pick(z, first) - _pick(z, third)
    if y is None:
        scale = spread + DLR_EPS
        low = _one_hot(third, z)
    else:
        fourth = order[:, 3]
        scale = 0.5 * (spread + (_pick(z, first) - _pick(z, fourth))) + DLR_EPS
        low = 0.5 * _one_hot(third, z) + 0.5 * _one_hot(fourth, z)
    ratio = gap / scale
    moved = torch.where(_is(first, z), -ratio, torch.where(low == 0, 0.0, ratio * low))  # inf * 0 is not part of it
    # Divided last, so that 1 - 1 cancels exactly where gap equals scale.
    gradient = (_one_hot(plus, z) - _one_hot(target, z) + moved) / scale
    return torch.where(ratio.isnan(), torch.nan, gradient)


def _best_other(z: Tensor, target: Tensor) -> Tensor:
    """(N,) the best class other than the target; ties go to the lowest index."""
    best = torch.where(_is(target, z), -torch.inf, z).argmax(1)
    return best + (best == target)  # class 0, the target, where all others are -inf


def _is(index: Tensor, z: Tensor) -> Tensor:
    """(N, C) True where the column is the sample's index."""
    return torch.arange(z.shape[1], device=z.device) == index[:, None]


def _one_hot(index: Tensor, z: Tensor) -> Tensor:
    return _is(index, z).to(z.dtype)


def _pick(z: Tensor, index: Tensor) -> Tensor:
    """(N, 1) each sample's logit at its index."""
    return z.gather(1, index[:, None])
