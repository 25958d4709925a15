"""sample_targets: draw a class other than the label from integer weights."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fairtat.reference.definition import taking
from fairtat.reference.indices import check_range
from fairtat.reference.philox import TARGET_POSITION, philox4x32


class SampleTargetsArgs(NamedTuple):
    """What a draw takes."""

    label: Tensor  # (N,)
    table: Tensor  # (C,) or (C, C)
    sample_ids: Tensor | None  # (N,) or None: 0, 1, ...
    seed: int
    stream: int


def empty_targets(label: Tensor, *_: object) -> Tensor:
    return torch.empty_like(label)


@taking(SampleTargetsArgs)
def sample_targets(a: SampleTargetsArgs) -> Tensor:
    """Targets (N,) int64; see :func:`fairtat.ops.sample_targets` for the rule."""
    label, table, sample_ids, seed, stream = a
    n = label.shape[0]
    if n == 0:
        return empty_targets(label)
    if label.device.type == "cpu":
        check_range("label", label, table.shape[-1])
    ids = torch.arange(n, device=label.device) if sample_ids is None else sample_ids
    position = torch.tensor([TARGET_POSITION], device=label.device)
    word = philox4x32(position, stream, ids, seed)[0]
    rows = table[None, :].expand(n, -1) if table.ndim == 1 else table[label]
    column = label[:, None]
    through = rows.gather(1, column)[:, 0]
    before = torch.where(label > 0, rows.gather(1, (column - 1).clamp_min(0))[:, 0], 0)
    own = through - before
    draw = (word * (rows[:, -1] - own)) >> 32  # in [0, weight of the other classes)
    draw = torch.where(draw >= before, draw + own, draw)  # step over the label's own share
    return torch.searchsorted(rows.contiguous(), draw[:, None], right=True)[:, 0]
