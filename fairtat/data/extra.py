"""Images that training sees beside its own: generated ones, or photographs without labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from fairtat.data.sets.npz import load_npz_images
from fairtat.data.splits import Splits
from fairtat.data.stream import Data, MemorySource, Reader, Source, StreamData
from fairtat.data.types import ImageData, Layout, scaled
from fairtat.errors import UserError

__all__ = ["joined", "load_extra"]


def load_extra(path: str | Path, splits: Splits, *, layout: Layout = "auto") -> ImageData:
    """The images of an ``.npz`` file, on the CPU, with the classes of ``splits``; a missing label is -1.

    The arrays are ``images`` and ``labels``, or ``image`` and ``label`` as in the files of Rebuffi et al. (2021) and
    Wang et al. (2023); labels may be missing. Ids are above those of all images of ``splits``.

    Raises:
        UserError: another kind of file, images of another shape, or labels of other classes.
    """
    if Path(path).suffix != ".npz":
        raise UserError(f"data.extra is {str(path)!r}; expected a .npz file")
    extra = load_npz_images(path, like=splits.train, layout=layout)
    first = 1 + max(int(part.ids.max()) for part in (splits.train, splits.val, splits.test) if len(part))
    return replace(extra, ids=extra.ids + first)


def joined(train: Data, extra: ImageData) -> Data:
    """Both sets in one, on the device of ``train``, whose images come first. Batches of it are those of the two.

    Images in memory are copied, as float32 where the two are stored differently.

    Raises:
        UserError: an extra image has no label.
    """
    missing = int((extra.labels < 0).sum())
    if missing:
        raise UserError(
            f"{extra.name}: {missing} of {len(extra)} images have no label; set data.pseudo_labels to a run folder "
            "whose model labels them"
        )
    held = train.resident if isinstance(train, StreamData) else train
    labels = torch.cat([train.labels, extra.labels.to(train.device)])
    ids = torch.cat([train.ids, extra.ids.to(train.device)])
    if held is not None:
        same = (held.images.dtype, held.white) == (extra.images.dtype, extra.white)
        images = torch.empty(
            (len(held) + len(extra), *held.image_shape),
            dtype=held.images.dtype if same else torch.float32,
            device=held.device,
        )
        first = 0
        for part in (held, extra):
            rows = slice(first, first + len(part))
            images[rows] = part.images if same else scaled(part.images, part.white)
            first += len(part)
        white = held.white if same else 1
        return ImageData(train.name, images, labels, ids, train.class_names, white)
    assert isinstance(train, StreamData)  # all others are held
    source = _Joined(train, extra)
    return StreamData(
        train.name,
        Reader(train.name, source, train.reader.workers),
        torch.arange(len(train) + len(extra)),
        labels,
        ids,
        train.class_names,
        source.white,
        "stream",
    )


class _Joined:
    """The rows of two sets, one after the other."""

    def __init__(self, train: StreamData, extra: ImageData) -> None:
        self._first, self._rows = train.reader.source, train.rows
        self._second: Source = MemorySource(extra.images)
        self._whites = (train.white, extra.white)
        same = (self._first.dtype, train.white) == (self._second.dtype, extra.white)
        self.dtype = self._first.dtype if same else torch.float32
        self.white = train.white if same else 1
        self.image_shape = train.image_shape

    def read(self, rows: Sequence[int]) -> Tensor:
        wanted = torch.as_tensor(rows, dtype=torch.int64)
        images = torch.empty((len(wanted), *self.image_shape), dtype=self.dtype)
        of_first = wanted < len(self._rows)
        for mine, source, taken, white in (
            (of_first, self._first, self._rows[wanted[of_first]], self._whites[0]),
            (~of_first, self._second, wanted[~of_first] - len(self._rows), self._whites[1]),
        ):
            part = source.read(taken.tolist())
            images[mine] = part if part.dtype == self.dtype and white == self.white else scaled(part, white)
        return images

    def check(self, rows: Sequence[int]) -> int:
        """Nothing: each set was checked separately."""
        return 0
