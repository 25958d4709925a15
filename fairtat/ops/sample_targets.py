"""sample_targets: draw a target class other than the label, by integer weights."""

from __future__ import annotations

import torch
from torch import Tensor

from fairtat import backends
from fairtat.checks import check_device, check_dtype, check_sample_ids, check_seed, check_tensor
from fairtat.ops._library import register_op

TABLE_BITS = 31  # a row's weights sum to at most 2**31: the product with a 32-bit draw fits 64 bits


def target_table(weight: Tensor) -> Tensor:
    """Turn class weights into the integer table that :func:`sample_targets` draws from.

    Each weight becomes ``round(w / max(w) * 2**S)``, at least 1 where w > 0, with ``S = 31 - ceil(log2(C))``; the
    table holds the running sums of a row. The quotient does not depend on the order of any sum, so every
    device and rank makes the same integers. Checks the values: one synchronization on a GPU, once per epoch.

    Args:
        weight: (C,) one distribution for all labels, or (C, C) one row for each label; finite, >= 0,
            any scale. The label's own weight is never used.

    Returns:
        Table of the same shape, int64.

    Raises:
        ValueError: a wrong shape, fewer than two classes, a negative or non-finite weight, or a label
            for which no other class has weight.
        TypeError: not a floating-point tensor.

    Source: FAIR-TAT (Medi, Jung, Keuper 2025), arXiv:2410.23142.
    """
    check_tensor("weight", weight)
    if not weight.is_floating_point():
        raise TypeError(f"weight must be floating point, got {weight.dtype}")
    classes = weight.shape[-1] if weight.ndim else 0
    if weight.ndim not in (1, 2) or weight.shape != (classes,) * weight.ndim:
        raise ValueError(f"weight must have shape (C,) or (C, C), got {tuple(weight.shape)}")
    if classes < 2:
        raise ValueError(f"weight must cover at least 2 classes, got {classes}")
    if weight.device.type == "meta":
        raise ValueError("weight must have values, got a tensor on the meta device")
    w = weight.detach().double()
    if w.ndim == 2:
        w = w.clone().fill_diagonal_(0.0)  # a label's own weight must not take resolution from the others
    # Two checks of values an epoch; each waits for the device.
    if bool((~(w >= 0) | w.isinf()).any()):
        raise ValueError("weight must be finite and at least 0 in every entry")
    # One row for all labels: every label has another class exactly when two weights are positive.
    if bool(((w > 0).sum(-1) < (1 if w.ndim == 2 else 2)).any()):
        raise ValueError("weight must leave every label a class other than itself with weight > 0")
    scale = 2.0 ** (TABLE_BITS - (classes - 1).bit_length())
    units = (w / w.amax(-1, keepdim=True) * scale).round().long()
    return torch.where(w > 0, units.clamp_min(1), 0).cumsum(-1)


def sample_targets(
    label: Tensor,  # (N,)
    table: Tensor,  # (C,) or (C, C)
    *,
    seed: int,
    sample_ids: Tensor | None = None,  # (N,)
    stream: int = 0,
    backend: str = "auto",
) -> Tensor:
    """Draw a target class for each label: ``P(t | y) = w_t / sum_{j != y} w_j`` for t != y, never y itself.

    With W_y the weight of the classes other than y and r the sample's 32-bit Philox word, the draw
    is ``(r * W_y) >> 32``, found in the running sums with y's own share stepped over: integers only, so every
    backend, batch split and rank draws the same target.

    Args:
        label: (N,) int64 in [0, C).
        table: From :func:`target_table`.
        seed: Any integer in [-2**63, 2**64).
        sample_ids: (N,) int64, default ``arange(N)``.
        stream: Separates draws under one seed (an epoch, say), in [0, 2**32).
        backend: "auto" or a name from :data:`fairtat.backends.BACKENDS`.

    Returns:
        target (N,) int64.

    Raises:
        ValueError, TypeError: naming the argument, what was given and what was expected; for CPU tensors also
            when a label is out of range.

    Source: FAIR-TAT (Medi, Jung, Keuper 2025), arXiv:2410.23142.
    """
    if chosen := _op.usual(backend, label, table, seed, sample_ids, stream):
        drawn: Tensor = _op.direct(chosen, label, table, sample_ids, seed, stream)
        return drawn
    check_tensor("table", table)
    check_dtype("table", table, (torch.int64,))
    shape = tuple(table.shape)
    if len(shape) not in (1, 2) or shape[0] != shape[-1]:
        raise ValueError(f"table must have shape (C,) or (C, C), got {shape}")
    check_tensor("label", label)
    check_dtype("label", label, (torch.int64,))
    if label.ndim != 1:
        raise ValueError(f"label must have shape (N,), got {tuple(label.shape)}")
    check_device("table", table, "label", label)
    seed = check_seed(seed, stream)
    ids = check_sample_ids(sample_ids, label.shape[0], "label", label)
    chosen = backends.choose("sample_targets", label.device, label.dtype, backend)
    target: Tensor = _op(label.contiguous(), table.contiguous(), ids, seed, stream, chosen)
    return target


_op = register_op(
    "sample_targets", usual=("int64 (N)", "int64 (C)|(C, C)", "seed", "int64 (N)?", "integer 0 4294967295")
)
