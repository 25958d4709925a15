"""GradAlign: input gradients that agree within the ball, so that a single step finds what several would."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fairtat.logits import logits_of
from fairtat.training.objectives.losses import cross_entropy

__all__ = ["misalignment"]


def misalignment(model: nn.Module, x: Tensor, nearby: Tensor, y: Tensor) -> Tensor:
    """``1 - cos(g(x_i), g(x_i + eta_i))`` with g the gradient of ``CE(f(.), y_i)`` to the image, and a graph to f.

    A sample with a gradient of zero has no angle and counts 0, as the authors' code leaves it out.

    Args:
        model: run twice, as it is; needs second derivatives.
        x: (N, C_in, H, W) images.
        nearby: (N, C_in, H, W), a random point in the ball around each.
        y: (N,) int64 labels.

    Returns:
        (N,).

    Source: Andriushchenko and Flammarion, NeurIPS 2020 (arXiv:2007.02617).
    """
    one, two = (_unit_gradient(model, images, y) for images in (x, nearby))
    cosine = (one * two).sum(dim=1)
    known = (one.detach().abs().amax(dim=1) > 0) & (two.detach().abs().amax(dim=1) > 0)
    return torch.where(known, 1 - cosine, 0.0)


def _unit_gradient(model: nn.Module, images: Tensor, y: Tensor) -> Tensor:
    """(N, D) input gradients of length 1, or 0."""
    leaf = images.detach().requires_grad_()
    loss = cross_entropy(logits_of(model(leaf)), y).sum()
    (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
    rows = gradient.flatten(1).float()
    # By their largest entry first: squares of a sure model's gradients would vanish.
    rows = rows / rows.detach().abs().amax(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    length = rows.square().sum(dim=1, keepdim=True)
    return rows * length.clamp_min(torch.finfo(torch.float32).tiny).rsqrt()
