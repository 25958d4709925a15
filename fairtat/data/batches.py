"""Batches of images in memory or from a stream: the same ones, whichever it is."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fairtat.data.augment import Augment, Moves
from fairtat.data.stream import Data, StreamData
from fairtat.data.types import scaled

__all__ = ["Batch", "Batches", "MixedBatch", "Order", "batches", "num_batches"]


class Batch(NamedTuple):
    """What a training or evaluation step sees of N samples."""

    x: Tensor  # (N, C, H, W) float32 in [0, 1]
    y: Tensor  # (N,) int64
    ids: Tensor  # (N,) int64, stable over epochs, splits and batch sizes

    @property
    def own(self) -> int | None:
        """How many of the first samples count in the class statistics, the others being extra images; None: all."""
        return None

    def parts(self, count: int) -> list[Batch]:
        """The batch cut into at most ``count`` parts, none of them empty, whose sizes differ by one at most."""
        count = min(count, len(self.y))
        if count <= 1:
            return [self] * count
        cut = [column.tensor_split(count) for column in self]
        return [Batch(*part) for part in zip(*cut, strict=True)]


class MixedBatch(Batch):
    """A batch of which only the first samples are the data set's own."""

    _own = 0

    @classmethod
    def of(cls, batch: Batch, own: int) -> MixedBatch:
        made = cls(*batch)
        made._own = own
        return made

    @property
    def own(self) -> int:
        return self._own

    def _replace(self, **changes: Any) -> MixedBatch:
        return self.of(super()._replace(**changes), self._own)

    def parts(self, count: int) -> list[Batch]:
        """As those of a batch; samples are dealt out, so that each part has its share of the extra ones."""
        count = min(count, len(self.y))
        return [
            self.of(Batch(*(column[part::count] for column in self)), len(range(part, self._own, count)))
            for part in range(count)
        ]


class Order(NamedTuple):
    """The rows that an epoch draws, in place of each one once."""

    rows: Tensor  # (M,) int64, on the CPU, any of them as often as it likes
    own: Sequence[int] | None = None
    """For each batch, how many of its rows come first and count in the class statistics; None: all."""


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
    order: Order | None = None,
) -> Batches:
    """Draw every sample once: in order, or in the permutation that ``seed`` gives (one seed per epoch); or ``order``.

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
            processes. Where some samples are extra, they are dealt out, so that each part has its share of them.
        order: the rows to draw, in this order; ``seed`` is then of the augmentation alone, which depends on the place
            in the order, because a row may come twice.

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

    size = len(data) if order is None else len(order.rows)
    count = num_batches(size, batch_size, drop_last=drop_last)
    rows, moves = torch.arange(len(data)) if order is None else order.rows, None
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        if order is None:
            rows = torch.randperm(len(data), generator=generator)
        moves = None if augment is None else augment.draw(size, generator)
    if moves is not None and order is None:
        moves = moves.at(rows)  # how an image is moved depends on the image, not on its place
    owns = None if order is None else order.own
    spans: list[slice] = []
    counted: list[int | None] = []
    for number, first in enumerate(range(0, count * batch_size, batch_size)):
        samples = min(batch_size, size - first)
        if owns is None:
            spans.append(slice(first + samples * rank // processes, first + samples * (rank + 1) // processes))
            counted.append(None)
        else:
            spans.append(slice(first + rank, first + samples, processes))
            counted.append(len(range(rank, owns[number], processes)))
    return Batches(_draw(data, spans, counted, rows, augment, moves), count)


def _draw(
    data: Data,
    spans: Sequence[slice],
    counted: Sequence[int | None],
    order: Tensor,
    augment: Augment | None,
    moves: Moves | None,
) -> Iterator[Batch]:
    """The batches at these spans of the order, all of whose index arithmetic stays on the device."""
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
    for span, own, stored in zip(spans, counted, images, strict=True):
        rows = on_device[span]
        if augment is not None and moves is not None:
            stored = augment(stored, moves.within(span))
        batch = Batch(scaled(stored, data.white), data.labels.index_select(0, rows), data.ids.index_select(0, rows))
        yield batch if own is None else MixedBatch.of(batch, own)


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
