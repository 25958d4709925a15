"""logit_stats_: add a batch to per-class counts, losses and the confusion matrix, straight from its logits."""

from __future__ import annotations

import torch
from torch import Tensor

from fairtat import backends
from fairtat.checks import LOW_PRECISION, check_device, check_dtype, check_labels, check_tensor
from fairtat.ops._library import register_op
from fairtat.ops.class_stats import Stats, check_buffer


def logit_stats_(
    stats: Stats,
    logits: Tensor,  # (N, C)
    label: Tensor,  # (N,)
    target: Tensor | None = None,  # (N,)
    *,
    backend: str = "auto",
) -> Stats:
    """Count a batch into ``stats`` from one read of its logits; no gradient is made.

    With z a row of logits and y its label, `class_stats_` counts the sample with::

        pred = argmax(z), the lowest index among equals        loss = logsumexp(z) - z_y

    in the arithmetic of `logit_loss`: float32 for float32, bfloat16 and float16 logits and float64 for float64. Where
    the loss is NaN or infinite (a row whose largest logit is +inf, NaN or -inf, or z_y = -inf) the sample is counted
    in ``nonfinite`` and nowhere else.

    On each backend the integers are those of `class_stats_` with loss and pred of `logit_loss` there, to the last one.
    From backend to backend all counts are the same, and loss sums differ by what `logit_loss` may differ: 1e-5 of a
    loss, or 1e-6.

    Args:
        stats: A :class:`fairtat.ClassStats` (anything with ``.buffer``, (7 + C, C) int64); updated.
        logits: (N, C), float32, bfloat16, float16 or float64.
        label: True classes (N,) int64.
        target: The attack's targets (N,) int64.
        backend: "auto" or a name from :data:`fairtat.backends.BACKENDS`.

    No other tensor may share memory with the buffer, which is written. On a GPU nothing waits for the device: a sample
    whose index is out of range is left out there, while on a CPU it raises before anything is counted.

    Returns:
        stats, the same object.

    Raises:
        ValueError, TypeError: naming the argument, what was given and what was expected.
    """
    buffer = stats.buffer
    if chosen := _op.usual(backend, buffer, logits, label, target):
        _op.direct(chosen, buffer, logits, label, target)
        return stats
    check_buffer(buffer)
    check_tensor("logits", logits)
    check_dtype("logits", logits, (*LOW_PRECISION, torch.float64))
    classes = buffer.shape[1]
    if logits.ndim != 2 or logits.shape[1] != classes:
        raise ValueError(f"logits must have shape (N, {classes}), got {tuple(logits.shape)}")
    check_device("logits", logits, "stats.buffer", buffer)
    check_labels("label", label, logits.shape[0], "logits", logits)
    if target is not None:
        check_labels("target", target, logits.shape[0], "logits", logits)
        target = target.contiguous()
    chosen = backends.choose("logit_stats", logits.device, logits.dtype, backend)
    _op(buffer, logits.contiguous(), label.contiguous(), target, chosen)
    return stats


_op = register_op(
    "logit_stats",
    usual=("int64 (7+C, C) written", "float32|bfloat16|float16 (N, C)", "int64 (N)", "int64 (N)?"),
)
