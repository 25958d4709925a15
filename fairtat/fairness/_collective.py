"""The one collective of an epoch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch import distributed as dist


def sum_over_processes(buffers: Sequence[Tensor], group: dist.ProcessGroup | None = None) -> None:
    """Replace int64 buffers, in place, by their sums over all processes; a no-op in a single process.

    Integers only: their sum depends on neither the number of processes nor the order in which a backend adds, so every
    process is left with the same bits. All buffers go in one collective, whose latency is what it costs.
    """
    if any(buffer.dtype != torch.int64 for buffer in buffers):
        raise TypeError(f"buffers must be int64, got {[str(buffer.dtype) for buffer in buffers]}")
    if not (dist.is_available() and dist.is_initialized()):
        return
    if len(buffers) == 1:
        dist.all_reduce(buffers[0], op=dist.ReduceOp.SUM, group=group)
        return
    flat = torch.cat([buffer.reshape(-1) for buffer in buffers])
    dist.all_reduce(flat, op=dist.ReduceOp.SUM, group=group)
    for buffer, total in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(total.view_as(buffer))
