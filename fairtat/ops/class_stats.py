"""class_stats_: add a batch to per-class counts, losses and the confusion matrix, in place."""

from __future__ import annotations

from typing import Protocol, TypeVar

import torch
from torch import Tensor

from fairtat import backends
from fairtat.checks import check_device, check_dtype, check_labels, check_shape, check_tensor
from fairtat.ops._library import register_op
from fairtat.reference.class_stats import HEADER


class StatsBuffer(Protocol):
    """Anything that owns a statistics buffer; :class:`fairtat.ClassStats` does."""

    buffer: Tensor  # (7 + C, C) int64


Stats = TypeVar("Stats", bound=StatsBuffer)


def class_stats_(
    stats: Stats,
    pred: Tensor,  # (N,)
    label: Tensor,  # (N,)
    *,
    loss: Tensor | None = None,  # (N,)
    target: Tensor | None = None,  # (N,)
    backend: str = "auto",
) -> Stats:
    """Count a batch into ``stats``: confusion[label, pred], losses by label, and hits of the target.

    A finite loss is added as two integers, its whole part and ``round(fraction * 2**32)``, so the sum depends neither
    on order, batch split, backend nor the number of ranks, and below 2**31 samples it cannot overflow. A loss beyond
    +-(2**31 - 128) is cut to that and counted in ``saturated``. A sample whose loss is not finite is counted in
    ``nonfinite`` and nowhere else: what a model that diverged predicts is an accident. Integers only, no allocation on
    the compiled backend, and no host synchronization: on a GPU a sample whose index is out of range is left out, while
    on a CPU it raises before anything is counted.

    Args:
        stats: A :class:`fairtat.ClassStats` (anything with ``.buffer``, (7 + C, C) int64); updated.
        pred: Predicted classes (N,) int64.
        label: True classes (N,) int64.
        loss: Losses (N,), floating point.
        target: The attack's targets (N,) int64.
        backend: "auto" or a name from :data:`fairtat.backends.BACKENDS`.

    No other tensor may share memory with the buffer, which is written.

    Returns:
        stats, the same object.

    Raises:
        ValueError, TypeError: naming the argument, what was given and what was expected.
    """
    buffer = stats.buffer
    if chosen := _op.usual(backend, buffer, pred, label, loss, target):
        _op.direct(chosen, buffer, pred, label, loss, target)
        return stats
    check_buffer(buffer)
    check_tensor("label", label)
    n = label.shape[0] if label.ndim else 0
    check_labels("label", label, n, "stats.buffer", buffer)
    check_labels("pred", pred, n, "stats.buffer", buffer)
    if target is not None:
        check_labels("target", target, n, "stats.buffer", buffer)
        target = target.contiguous()
    if loss is not None:
        loss = _checked_loss(loss, n, buffer).contiguous()
    dtype = torch.float32 if loss is None else loss.dtype
    chosen = backends.choose("class_stats", buffer.device, dtype, backend)
    _op(buffer, pred.contiguous(), label.contiguous(), loss, target, chosen)
    return stats


def check_buffer(buffer: Tensor) -> None:
    """Counts (7 + C, C) int64, contiguous."""
    check_tensor("stats.buffer", buffer)
    check_dtype("stats.buffer", buffer, (torch.int64,))
    shape = buffer.shape
    if len(shape) != 2 or shape[0] != HEADER + shape[1] or not buffer.is_contiguous():
        raise ValueError(f"stats.buffer must be contiguous of shape ({HEADER} + C, C), got {tuple(shape)}")


def _checked_loss(loss: Tensor, n: int, buffer: Tensor) -> Tensor:
    """The losses in float32 or float64."""
    check_tensor("loss", loss)
    if loss.dtype is torch.float32 and loss.shape == (n,) and loss.device == buffer.device:
        return loss  # the usual case in one look
    check_shape("loss", loss, (n,))
    check_device("loss", loss, "stats.buffer", buffer)
    if not loss.is_floating_point():
        raise TypeError(f"loss must be floating point, got {loss.dtype}")
    # The float32 kernels would round a float64 loss twice.
    return loss if loss.dtype is torch.float64 else loss.float()


_op = register_op(
    "class_stats",
    usual=("int64 (7+C, C) written", "int64 (N)", "int64 (N)", "float32 (N)?", "int64 (N)?"),
)
