"""Batches of images in memory or from a stream: the same ones, whichever it is."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fairtat.data.augment import Augment, Moves
from fairtat.data.stream import Data, StreamData
from fairtat.data.types import scaled

__all__ = ["Batch", "Batches", "batches", "num_batches"]


class Batch(NamedTuple):
    """What a training or evaluation step sees of N samples."""

    x: Tensor  # (N, C, H, W) float32 in [0, 1]
    y: Tensor  # (N,) int64
    ids: Tensor  # (N,) int64, stable over epochs, splits and batch sizes


class Batches(Iterator[Batch]):
    """An epoch's batches, and how long the loop has waited for them."""

    def __init__(self, drawn: Iterator[Batch], count: int) -> None:
        self._drawn = drawn
        self._count = count
        self.waited = 0.0
        """Seconds that the caller has spent in `next`: reading, or only starting the work of a GPU."""

    def __len__(self) -> int:
        return self._count

    def __next__(self) -> Batch:
        started = time.perf_counter()
        try:
            return next(self._drawn)
        finally:
            self.waited += time.perf_counter() - started


def num_batches(samples: int, batch_size: int, *, drop_last: bool = False) -> int:
    """How many batches `batches` will draw."""
    return samples // batch_size if drop_last else -(-samples // batch_size)


def batches(
    data: Data,
    batch_size: int,
    *,
    seed: int | None = None,
    drop_last: bool = False,
    augment: Augment | None = None,
    shard: tuple[int, int] = (0, 1),
) -> Batches:
    """Draw every sample once: in order, or in the permutation that ``seed`` gives (one seed per epoch).

    Permutation and augmentation are drawn on the CPU for the whole epoch, so every device sees the same; how an image
    is augmented depends on the seed and its row in ``data``, not on the batch or the process that it falls to.
    Nothing waits for the device.

    Args:
        data: what to draw from; batches lie on its device.
        batch_size: samples in a batch, over all processes.
        seed: of order and augmentation; None keeps the order and allows no augmentation.
        drop_last: leave out a last batch that is smaller than the others.
        augment: how images are cropped and mirrored at random (see `make_augment`); None leaves them as they are.
        shard: (rank, processes): draw only this process's part of each batch. Parts differ by one sample at most,
            follow each other in the order of the ranks, and may be empty where a batch has fewer samples than there are
            processes.

    Raises:
        ValueError: ``batch_size`` below 1, ``augment`` without ``seed``, or an invalid ``shard``.
        UserError: images too small for the augmentation; while drawing, one that cannot be read.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected 1 or more")
    rank, processes = shard
    if not 0 <= rank < processes:
        raise ValueError(f"shard is {shard}; expected (rank, processes) with 0 <= rank < processes")
    if augment is not None:
        if seed is None:
            raise ValueError("augment is given and seed is None; expected a seed, on which the augmentation depends")
        augment.check(data.image_shape[1:])

    count = num_batches(len(data), batch_size, drop_last=drop_last)
    order, moves = None, None
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(data), generator=generator)
        moves = None if augment is None else augment.draw(len(data), generator)
    spans = []
    for first in range(0, count * batch_size, batch_size):
        samples = min(batch_size, len(data) - first)
        spans.append(slice(first + samples * rank // processes, first + samples * (rank + 1) // processes))
    return Batches(_draw(data, spans, order, augment, moves), count)


def _draw(
    data: Data, spans: Sequence[slice], order: Tensor | None, augment: Augment | None, moves: Moves | None
) -> Iterator[Batch]:
    """The batches at these spans of the order, all of whose index arithmetic stays on the device."""
    if order is None:
        order = torch.arange(len(data))
    on_device = order.to(data.device, non_blocking=True)
    if moves is not None:
        moves = moves.to(data.device)
    images: Iterator[Tensor]
    held = data.resident if isinstance(data, StreamData) else data
    if held is not None:
        images = (held.images.index_select(0, on_device[span]) for span in spans)
    else:
        assert isinstance(data, StreamData)  # all others are held
        images = _streamed(data, spans, order)
    for span, stored in zip(spans, images, strict=True):
        rows = on_device[span]
        if augment is not None and moves is not None:
            stored = augment(stored, moves.at(rows))
        yield Batch(scaled(stored, data.white), data.labels.index_select(0, rows), data.ids.index_select(0, rows))


def _streamed(data: StreamData, spans: Sequence[slice], order: Tensor) -> Iterator[Tensor]:
    rows = data.rows.index_select(0, order)
    groups = [rows[span] for span in spans]
    if data.device.type != "cuda":
        yield from data.reader.read(groups)
        return
    # One batch ahead, on a separate stream: the copy overlaps the step that uses the batch before.
    copies = torch.cuda.Stream(data.device)
    waiting: deque[tuple[Tensor, torch.cuda.Event]] = deque()

    def arrived() -> Tensor:
        images, copied = waiting.popleft()
        current = torch.cuda.current_stream(data.device)
        current.wait_event(copied)
        images.record_stream(current)  # the allocator must not hand the memory on while this stream reads it
        return images

    for pinned in data.reader.read(groups, pin=True):
        with torch.cuda.stream(copies):
            images = pinned.to(data.device, non_blocking=True)
            copied = copies.record_event()
        waiting.append((images, copied))
        if len(waiting) > 1:
            yield arrived()
    while waiting:
        yield arrived()
