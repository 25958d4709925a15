"""Images that worker processes read when they are needed, in the order of an epoch."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from fairtat.data.labels import name_classes, read_groups
from fairtat.data.types import ImageData, Labeled, taken
from fairtat.errors import UserError

__all__ = ["Data", "MemorySource", "Placement", "Reader", "Source", "StreamData", "stream_data"]

Placement = Literal["auto", "device", "stream"]

# The share of the device's free memory that `auto` lets one set take: model and attack need the rest.
_SHARE_OF_MEMORY = 0.25
_ROWS_A_READ = 256
_GROUPS_WITHOUT_WORKERS = 4  # headers that are read in less time than processes take to start


class Source(Protocol):
    """Where images come from. It is copied into the worker processes."""

    image_shape: tuple[int, int, int]  # (C, H, W), the same for all
    dtype: torch.dtype  # uint8, or float32 in [0, 1]

    def read(self, rows: Sequence[int]) -> Tensor:
        """The images (len(rows), C, H, W) in these rows.

        Raises:
            UserError: one of them cannot be read; the message names it.
        """
        ...

    def check(self, rows: Sequence[int]) -> int:
        """Look at these images without reading their pixels; how many of them `read` turns.

        Raises:
            UserError: one of them cannot be used; the message names it.
        """
        ...


class MemorySource:
    """Images that lie in the main memory, for a device that has no room for them."""

    def __init__(self, images: Tensor) -> None:
        self._images = images.cpu()
        channels, height, width = images.shape[1:]
        self.image_shape = (channels, height, width)
        self.dtype = images.dtype

    def read(self, rows: Sequence[int]) -> Tensor:
        return self._images.index_select(0, torch.as_tensor(rows, dtype=torch.int64))

    def check(self, rows: Sequence[int]) -> int:
        return 0


class _Check:
    """A source whose images are only looked at, or decoded and dropped: how many of each group are turned, (1,) int64.

    They stay in the worker processes, which hand over nothing else.
    """

    dtype = torch.int64

    def __init__(self, source: Source, *, decode: bool) -> None:
        self.image_shape = source.image_shape
        self._source = source
        self._decode = decode

    def read(self, rows: Sequence[int]) -> Tensor:
        turned = self.check(rows)
        if self._decode:
            self._source.read(rows)
        return torch.tensor([turned])

    def check(self, rows: Sequence[int]) -> int:
        return self._source.check(rows)


@dataclass(frozen=True)
class _Failure:
    message: (
        str  # of the UserError that a worker met: exceptions themselves come back with a traceback of two processes
    )


class _Rows(Dataset[Any]):
    def __init__(self, source: Source) -> None:
        self._source = source

    def __getitem__(self, rows: Sequence[int]) -> Tensor | _Failure:
        try:
            return self._source.read(rows)
        except UserError as error:
            return _Failure(str(error))


class _Order(Sampler[list[int]]):
    """The groups of rows to read next. It changes from epoch to epoch under a loader whose workers live on."""

    def __init__(self) -> None:
        self.groups: Sequence[Tensor] = ()

    def __iter__(self) -> Iterator[list[int]]:
        return (group.tolist() for group in self.groups)

    def __len__(self) -> int:
        return len(self.groups)


@dataclass(eq=False)
class _Workers:
    loader: DataLoader[Any]
    order: _Order
    pin: bool
    busy: bool = False


class Reader:
    """Worker processes that read a source. They start with the first group and live as long as this object.

    There are ``workers`` of them, at most one per core; with none, the caller reads.
    Iterators may overlap: each has its own workers, which later ones reuse.
    """

    def __init__(self, name: str, source: Source, workers: int) -> None:
        self._name = name
        self.source = source
        self.workers = min(workers, _cores())
        self._pools: list[_Workers] = []
        # The finalizer keeps the loaders out of what the garbage collector clears: it would close their queues before
        # they can tell the workers to go, and wait five seconds for each.
        weakref.finalize(self, self._pools.clear)

    def __reduce__(self) -> Any:
        return Reader, (self._name, self.source, self.workers)  # processes cannot be copied

    def read(self, groups: Sequence[Tensor], *, pin: bool = False) -> Iterator[Tensor]:
        """The images of each group of rows, in order; in page-locked memory if ``pin``.

        Raises:
            UserError: an image cannot be read, or a worker process died.
        """
        pool = next((pool for pool in self._pools if pool.pin == pin and not pool.busy), None) or self._new_pool(pin)
        pool.busy = True
        pool.order.groups = groups
        try:
            for images in pool.loader:
                if isinstance(images, _Failure):
                    raise UserError(images.message)
                yield images
        except (RuntimeError, OSError, EOFError) as error:
            # A process that has died shows as any of these, when it is missed or when its memory is asked for.
            # "Caught" is how an error of our own comes back from a worker.
            if self.workers == 0 or str(error).startswith("Caught"):
                raise
            self._pools.remove(pool)
            reason = str(error).partition("\n")[0] or type(error).__name__
            raise UserError(
                f"{self._name}: a process that reads images died ({reason}); fewer data.workers need less memory"
            ) from error
        finally:
            pool.busy = False

    def stop(self) -> None:
        """End the processes that nothing reads from; the next `read` starts new ones."""
        self._pools[:] = [pool for pool in self._pools if pool.busy]

    def _new_pool(self, pin: bool) -> _Workers:
        order = _Order()
        loader = DataLoader(
            _Rows(self.source),
            batch_size=None,  # a "sample" is a whole group
            sampler=order,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=pin,
            generator=torch.Generator(),  # the loader draws a seed for its workers: not from the global generator
        )
        self._pools.append(_Workers(loader, order, pin))
        return self._pools[-1]


@dataclass(frozen=True)
class StreamData(Labeled):
    """Labeled images that a `Source` reads. Labels and ids lie on ``device``, where the batches are wanted.

    Decoded images stay on the device from the first epoch on if ``placement`` is ``device``, or ``auto`` and they take
    at most a quarter of the device's free memory; otherwise they are read again in every epoch. Both give the same
    batches to the last bit. All sets that `take` makes share their processes.
    """

    name: str
    reader: Reader
    rows: Tensor  # (N,) int64, on the CPU: where each image lies in the source
    labels: Tensor  # (N,) int64
    ids: Tensor  # (N,) int64
    class_names: tuple[str, ...]  # (C,)
    white: int
    placement: Placement = "auto"
    groups: Tensor | None = None  # (N,) int64, on the CPU: images of one group must stay on one side of a split

    def __len__(self) -> int:
        return self.rows.shape[0]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W)"""
        return self.reader.source.image_shape

    def to(self, device: torch.device | str) -> StreamData:
        return replace(self, labels=self.labels.to(device), ids=self.ids.to(device))

    def take(self, index: Tensor) -> StreamData:
        """The samples at ``index`` (int64, on the data's device), in that order, with their ids."""
        return replace(
            self,
            rows=self.rows.index_select(0, index.cpu()),
            labels=self.labels.index_select(0, index),
            ids=self.ids.index_select(0, index),
            groups=taken(self.groups, index),
        )

    @cached_property
    def resident(self) -> ImageData | None:
        """All images on the device, read now, if they are to stay there (see the class)."""
        if self.placement == "stream" or (self.placement == "auto" and not self._fits()):
            return None
        return self.decoded()

    def decoded(self) -> ImageData:
        """All images, read now, on the device.

        Raises:
            UserError: an image cannot be read.
        """
        shape = (len(self), *self.image_shape)
        images = torch.empty(shape, dtype=self.reader.source.dtype, device=self.device)
        first = 0
        for part in self.reader.read(self.rows.split(_ROWS_A_READ)):
            images[first : first + len(part)].copy_(part)
            first += len(part)
        self.reader.stop()
        return ImageData(self.name, images, self.labels, self.ids, self.class_names, self.white, self.groups)

    def check(self, *, decode: bool = False) -> int:
        """Look at the header and the end of every image, or ``decode`` them all; how many get turned (see ``exif``).

        Raises:
            UserError: an image cannot be used, as far as it was checked; the message names it.
        """
        groups = self.rows.split(_ROWS_A_READ)
        workers = self.reader.workers if decode or len(groups) > _GROUPS_WITHOUT_WORKERS else 0
        checks = Reader(self.name, _Check(self.reader.source, decode=decode), workers)
        return sum(int(turned) for turned in checks.read(groups))

    def _fits(self) -> bool:
        channels, height, width = self.image_shape
        needed = len(self) * channels * height * width * self.reader.source.dtype.itemsize
        return needed <= _SHARE_OF_MEMORY * free_memory(self.device)


Data = ImageData | StreamData


def stream_data(
    name: str,
    source: Source,
    labels: Tensor,
    *,
    class_names: tuple[str, ...] | None = None,
    white: int = 255,
    placement: Placement = "auto",
    workers: int = 4,
    groups: Any = None,
) -> StreamData:
    """The images of a source with their labels (N,) int64, all on the CPU for now; ``groups`` as for `image_data`.

    Raises:
        UserError: labels out of range, or fewer than two classes.
    """
    return StreamData(
        name=name,
        reader=Reader(name, source, workers),
        rows=torch.arange(len(labels)),
        labels=labels,
        ids=torch.arange(len(labels)),
        class_names=name_classes(name, labels, class_names),
        white=white,
        placement=placement,
        groups=None if groups is None else read_groups(name, groups, len(labels)),
    )


def _cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory(device: torch.device) -> int:
    """Bytes that are free for a new tensor on this device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0  # unknown: reading images again in every epoch works everywhere
