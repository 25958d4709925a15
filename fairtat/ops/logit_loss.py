"""logit_loss: an attack's loss, its gradient with respect to the logits, and the prediction, in one pass."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fairtat import backends
from fairtat.checks import (
    LOW_PRECISION,
    check_choice,
    check_device,
    check_dtype,
    check_labels,
    check_mask,
    check_tensor,
)
from fairtat.ops._library import register_op

_MIN_CLASSES = {"ce": 1, "margin": 2, "dlr": 3, "kl": 1}
KINDS = tuple(_MIN_CLASSES)


class LogitLoss(NamedTuple):
    """What :func:`logit_loss` returns."""

    loss: Tensor  # (N,) float32 (float64 for float64 logits)
    dlogits: Tensor  # (N, C) of the logits' dtype
    pred: Tensor  # (N,) int64
    reached: Tensor  # (N,) bool


def min_classes(kind: str, with_y: bool) -> int:
    """The fewest classes that a loss is defined for."""
    return 4 if with_y and kind == "dlr" else _MIN_CLASSES[kind]


def check_classes(kind: str, with_y: bool, classes: int) -> None:
    """Raise ValueError where ``kind`` is not defined for so few classes."""
    needed = min_classes(kind, with_y)
    if classes < needed:
        advice = "; use kind 'margin'" if kind == "dlr" and classes >= 2 else ""
        what = f"{kind!r} with y" if kind == "dlr" and with_y else repr(kind)
        raise ValueError(f"loss {what} needs at least {needed} classes, got {classes}{advice}")


def logit_loss(
    logits: Tensor,  # (N, C)
    target: Tensor,  # (N,)
    *,
    kind: str | tuple[str, str] = "ce",
    targeted: Tensor | None = None,  # (N,)
    y: Tensor | None = None,  # (N,)
    clean_logits: Tensor | None = None,  # (N, C)
    backend: str = "auto",
) -> LogitLoss:
    """Return each sample's loss with respect to ``target``, its gradient, the prediction and whether it hit.

    Every kind is large far from ``target``, so a targeted attack descends it and an untargeted one passes
    the label as ``target`` and ascends it. With z the logits, t the target, and z_(1) >= z_(2) >= ...::

        ce:          logsumexp(z) - z_t
        margin:      max_{j != t} z_j - z_t
        dlr:         (max_{j != t} z_j - z_t) / (z_(1) - z_(3) + 1e-12)            C >= 3
        dlr with y:  (z_y - z_t) / (z_(1) - (z_(3) + z_(4))/2 + 1e-12)             C >= 4
        kl:          KL(softmax(clean_logits) || softmax(z)); t decides only ``reached``

    Loss and gradient of a row are NaN, for every kind, where its largest logit (for kl, or that of clean_logits) is
    +inf, NaN or -inf, and where an equation asks for inf - inf or inf / inf: a model that diverged must show. Elsewhere
    a logit of -inf rules its class out, with probability 0 and 0 * log(0 / q) = 0, and::

        ce, margin:  z_t = -inf: loss +inf, and the usual gradient, which is -1 at t
        margin:      all others -inf: loss -inf, and a gradient of +1 at the lowest index other than t
        dlr:         spread +inf: loss and gradient 0; difference +-inf: loss +-inf, and gradients of +-inf at the
                     logits of the spread
        kl:          z rules a class out that clean_logits does not: loss +inf, and the usual gradient

    A pair of kinds with ``targeted`` (N,) bool serves a batch that mixes directions: a sample's kind is the first where
    ``targeted`` is true, and the second, without y, elsewhere.

    Sum reduction: a sample's gradient does not depend on its batch. The arithmetic is float32 for float32,
    bfloat16 and float16 logits and float64 for float64.

    Args:
        logits: (N, C).
        target: (N,) int64 in [0, C).
        kind: "ce", "margin", "dlr" or "kl", or a pair of them: (of the targeted samples, of the others).
        targeted: (N,) bool, with a pair of kinds.
        y: (N,) int64 true labels in [0, C); for "dlr" only (the first of a pair), where it selects the targeted form.
        clean_logits: (N, C) logits or log-probabilities of the clean images; for "kl" only.
        backend: "auto" or a name from :data:`fairtat.backends.BACKENDS`.

    Returns:
        loss (N,), dlogits (N, C) of the logits' dtype, pred (N,) = argmax (the lowest index among equals),
        reached (N,) = (pred == target).

    Raises:
        ValueError, TypeError: naming the argument, what was given and what was expected; for CPU tensors also
            when a class index is out of range.

    Source: Carlini & Wagner 2017 (margin), arXiv:1608.04644; Croce & Hein 2020 (DLR), arXiv:2003.01690; Zhang et
    al. 2019 (TRADES, KL), arXiv:1901.08573.
    """
    if (
        isinstance(kind, str)
        and targeted is None
        and (chosen := _op.usual(backend, logits, target, kind, y, clean_logits))
        and (y is None or kind == "dlr")
        and (clean_logits is None) == (kind != "kl")
        and logits.shape[1] >= min_classes(kind, y is not None)
    ):
        return LogitLoss._make(_op.direct(chosen, logits, target, kind, y, clean_logits, None, None))
    check_tensor("logits", logits)
    check_dtype("logits", logits, (*LOW_PRECISION, torch.float64))
    if logits.ndim != 2:
        raise ValueError(f"logits must have shape (N, C), got {tuple(logits.shape)}")
    n, classes = logits.shape
    check_labels("target", target, n, "logits", logits)
    towards, away = _kinds(kind)
    if (targeted is not None) != (away is not None):
        given = "None" if targeted is None else "a tensor"
        raise ValueError(f"targeted goes with a pair of kinds, got targeted {given} with kind {kind!r}")
    if targeted is not None:
        check_mask("targeted", targeted, n, "logits", logits)
    if y is not None:
        if towards != "dlr":
            raise ValueError(f"y is used by kind 'dlr' alone, got kind {kind!r}")
        check_labels("y", y, n, "logits", logits)
    if (clean_logits is not None) != ("kl" in (towards, away)):
        raise ValueError(f"clean_logits goes with kind 'kl' and with no other, got kind {kind!r}")
    if clean_logits is not None:
        check_tensor("clean_logits", clean_logits)
        check_dtype("clean_logits", clean_logits, (*LOW_PRECISION, torch.float64))
        check_device("clean_logits", clean_logits, "logits", logits)
        if clean_logits.shape != logits.shape:
            raise ValueError(f"clean_logits must have shape {tuple(logits.shape)}, got {tuple(clean_logits.shape)}")
        if clean_logits.dtype == torch.float64 and logits.dtype != torch.float64:
            clean_logits = clean_logits.float()  # the precision of the arithmetic
        clean_logits = clean_logits.contiguous()
    check_classes(towards, y is not None, classes)
    if away is not None:
        check_classes(away, False, classes)
    chosen = backends.choose("logit_loss", logits.device, logits.dtype, backend)
    y, targeted = (None if t is None else t.contiguous() for t in (y, targeted))
    return LogitLoss(*_op(logits.contiguous(), target.contiguous(), towards, y, clean_logits, away, targeted, chosen))


def _kinds(kind: object) -> tuple[str, str | None]:
    """(of all samples, None), or (of the targeted samples, of the others)."""
    pair = kind if isinstance(kind, tuple) else (kind,)
    if not 1 <= len(pair) <= 2 or not all(isinstance(one, str) for one in pair):
        raise TypeError(f"kind must be a name or a pair of names, got {kind!r}")
    for one in pair:
        check_choice("kind", one, KINDS)
    return pair[0], pair[1] if len(pair) == 2 else None


_op = register_op(
    "logit_loss",
    usual=(
        "float32|bfloat16|float16 (N, C)", "int64 (N)", "one of ce margin dlr kl", "int64 (N)?",
        "float32|bfloat16|float16 (N, C)?",
    ),
)  # fmt: skip
