"""Per-sample losses, and their mean with per-sample weights. In float32 at least, whatever the logits' dtype."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

__all__ = ["boosted_cross_entropy", "cross_entropy", "divergence", "divergence_to_uniform", "weighted_mean"]


def cross_entropy(logits: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """``-sum_k q_k log p_k`` with q the label's distribution: logits (N, C), y (N,) int64 or q (N, C) -> (N,).

    With label smoothing s, q is ``(1 - s) q + s / C``.
    """
    return F.cross_entropy(logits.float(), y, reduction="none", label_smoothing=label_smoothing)


def divergence(logits: Tensor, clean_logits: Tensor) -> Tensor:
    """``KL(softmax(clean_logits) || softmax(logits))``: (N, C), (N, C) -> (N,), with gradients to both."""
    log_p, log_q = F.log_softmax(logits.float(), dim=1), F.log_softmax(clean_logits.float(), dim=1)
    # log_target: q log q would have the gradient log q + 1, which is infinite where q underflows.
    return F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(dim=1)


def divergence_to_uniform(logits: Tensor) -> Tensor:
    """``KL(softmax(logits) || u) = log C - H``, u uniform and H the entropy: (N, C) -> (N,)."""
    log_p = F.log_softmax(logits.float(), dim=1)
    return math.log(logits.shape[1]) + (log_p.exp() * log_p).sum(dim=1)


def boosted_cross_entropy(logits: Tensor, y: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """``-log p_y - log(1.0001 - max_{k != y} p_k)``, the BCE of MART: logits (N, C), y (N,) int64 -> (N,).

    The 1.0001 is that of the published code: it bounds the second term where the model is sure of a wrong class.
    """
    probability = F.softmax(logits.float(), dim=1)
    strongest_other = probability.scatter(1, y[:, None], 0.0).max(dim=1).values
    return cross_entropy(logits, y, label_smoothing) - (1.0001 - strongest_other).log()


def weighted_mean(loss: Tensor, *weights: Tensor | None) -> Tensor:
    """``sum_i w_i loss_i / N``, w_i the product of the weights: (N,), each (N,) or None for all ones -> ().

    Divided by N, not by the sum of the weights.
    """
    for weight in weights:
        loss = loss if weight is None else weight * loss
    return loss.mean()
