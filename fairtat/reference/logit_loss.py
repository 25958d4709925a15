"""logit_loss: an attack's loss, its gradient with respect to the logits, and the prediction."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fairtat.reference.definition import taking
from fairtat.reference.indices import check_range

DLR_EPS = 1e-12


Result = tuple[Tensor, Tensor, Tensor, Tensor]  # loss (N,), dlogits (N, C), pred (N,), reached (N,)


class LogitLossArgs(NamedTuple):
    """What a loss takes."""

    logits: Tensor  # (N, C)
    target: Tensor  # (N,)
    kind: str
    y: Tensor | None  # (N,), for dlr
    clean_logits: Tensor | None  # (N, C), for kl
    kind_away: str | None = None  # of the samples whose targeted is false
    targeted: Tensor | None = None  # (N,) or None: all are of `kind`


def empty_result(logits: Tensor, target: Tensor, *_: object) -> Result:
    """Room for the results, which has the arguments' devices and dtypes: the defaults are the user's to set."""
    n = logits.shape[0]
    return (
        logits.new_empty(n, dtype=torch.float64 if logits.dtype is torch.float64 else torch.float32),
        torch.empty_like(logits),
        target.new_empty(n),
        target.new_empty(n, dtype=torch.bool),
    )


@taking(LogitLossArgs)
@torch.no_grad()
def logit_loss(a: LogitLossArgs) -> Result:
    """(loss (N,), dlogits (N, C), pred (N,), reached (N,)); see :func:`fairtat.ops.logit_loss`.

    ``targeted`` (N,) bool: where it is false, the loss is ``kind_away``, without y.
    """
    logits, target, kind, y, clean_logits = a[:5]
    if a.kind_away is not None and a.targeted is not None:
        loss, dlogits, pred, reached = logit_loss(logits, target, kind, y, clean_logits)
        loss_away, dlogits_away, *_ = logit_loss(logits, target, a.kind_away, None, clean_logits)
        loss = torch.where(a.targeted, loss, loss_away)
        return loss, torch.where(a.targeted[:, None], dlogits, dlogits_away), pred, reached
    z = logits.to(torch.float64 if logits.dtype == torch.float64 else torch.float32)
    n, classes = z.shape
    if n == 0:
        return empty_result(logits, target)
    for name, index in (("target", target), ("y", y)):
        if index is not None and index.device.type == "cpu":
            check_range(name, index, classes)
    pred = z.argmax(1)
    column = target[:, None]
    if kind == "ce":
        loss, dz = _cross_entropy(z, column, pred[:, None])
    elif kind == "kl":
        assert clean_logits is not None
        clean = clean_logits.to(z.dtype)
        log_p, log_q = torch.log_softmax(clean, 1), torch.log_softmax(z, 1)
        p = log_p.exp()
        term = torch.where(p == 0, 0.0, p * (log_p - log_q))  # 0 * log(0 / q) is 0
        # Any chance, however small, of a class that is ruled out: also where p underflows.
        loss = torch.where((z == -torch.inf) & (clean != -torch.inf), torch.inf, term).sum(1)
        loss = _or_nan(loss, clean.amax(1))
        dz = log_q.exp() - p
    else:
        # The best class other than the target; ties go to the lowest index. Where all others are -inf, class 0 comes
        # out, which may be the target: then it is class 1.
        best = z.scatter(1, column, -torch.inf).argmax(1, keepdim=True)
        best = best + (best == column)
        plus, minus = (best, column) if y is None or kind == "margin" else (y[:, None], column)
        dz = torch.zeros_like(z)
        dz.scatter_add_(1, plus, torch.ones_like(z[:, :1]))
        dz.scatter_add_(1, minus, -torch.ones_like(z[:, :1]))
        gap = z.gather(1, plus) - z.gather(1, minus)
        if kind == "dlr":
            order = torch.sort(z, dim=1, descending=True, stable=True).indices
            top = z.gather(1, order)
            if y is None:
                scale = top[:, :1] - top[:, 2:3] + DLR_EPS
                low_weights = [(2, 1.0)]
            else:
                # Differences first: a large offset common to all logits then costs no accuracy.
                scale = 0.5 * ((top[:, :1] - top[:, 2:3]) + (top[:, :1] - top[:, 3:4])) + DLR_EPS
                low_weights = [(2, 0.5), (3, 0.5)]
            gap = gap / scale
            dz.scatter_add_(1, order[:, :1], -gap)
            for rank, weight in low_weights:
                dz.scatter_add_(1, order[:, rank : rank + 1], gap * weight)
            dz = dz / scale  # last, so that 1 - 1 cancels exactly where gap equals scale
        loss = gap[:, 0]
    loss = _or_nan(loss, z.gather(1, pred[:, None])[:, 0])
    dz = torch.where(loss.isnan()[:, None], torch.nan, dz)
    return loss, dz.to(logits.dtype), pred, pred == target


def _or_nan(loss: Tensor, top: Tensor) -> Tensor:
    """NaN where a row has no softmax: its largest logit (a NaN counts as largest) is NaN or infinite."""
    return loss + (top - top)


def _cross_entropy(z: Tensor, column: Tensor, best: Tensor) -> tuple[Tensor, Tensor]:
    """``-log softmax(z)[t]`` and ``softmax(z) - onehot(t)`` without cancellation near p_t = 1.

    The target's entry is minus the sum of the others, not p_t - 1: a confident sample keeps a
    gradient where the difference rounds to 0. For the same reason the loss uses log1p.
    """
    top = z.gather(1, best)
    e = torch.exp(z - top).scatter(1, best, 0.0)
    rest = e.sum(1, keepdim=True)
    loss = torch.log1p(rest) + (top - z.gather(1, column))
    p = e.scatter(1, best, 1.0) / (1.0 + rest)
    others = p.scatter(1, column, 0.0)
    return loss[:, 0], others.scatter(1, column, -others.sum(1, keepdim=True))
