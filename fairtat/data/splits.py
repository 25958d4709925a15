"""Stratified, deterministic train / validation / test splits."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from fairtat.data.groups import divide_groups, one_each
from fairtat.data.labels import FROM_ONE
from fairtat.data.stream import Data
from fairtat.data.types import ImageData
from fairtat.errors import UserError

__all__ = [
    "PublishedSplits",
    "Splits",
    "check_fits",
    "check_images",
    "hold_out",
    "number_parts",
    "rows_per_class",
    "stratified_split",
]

_LOG = logging.getLogger("fairtat")


@dataclass(frozen=True)
class Splits:
    """Disjoint sets of one data set, with the same classes in the same order."""

    train: Data
    val: Data
    test: Data
    extra: ImageData | None = None  # images that only training sees, beside its own (see `load_extra`)

    def to(self, device: torch.device | str) -> Splits:
        """On another device, but for the extra images, which `joined` copies there."""
        return replace(self, train=self.train.to(device), val=self.val.to(device), test=self.test.to(device))


class PublishedSplits(NamedTuple):
    """A data set as it is published: some come with a test set, few with a validation set."""

    train: Data
    val: Data | None = None
    test: Data | None = None

    def map(self, change: Callable[[Data], Data]) -> PublishedSplits:
        """``change`` applied to each set that is present."""
        return PublishedSplits(
            change(self.train),
            None if self.val is None else change(self.val),
            None if self.test is None else change(self.test),
        )


def check_images(*parts: Data, decode: bool = False) -> None:
    """Look at every image now, so that a damaged one in the test set does not end a run that is otherwise finished.

    Reads headers and the ends of files, or with ``decode`` all pixels; images in memory have been checked before. A
    notice goes to the log where images get turned.

    Raises:
        UserError: an image cannot be used; the message names it.
    """
    turned = sum(part.check(decode=decode) for part in parts)
    if turned:
        _LOG.warning(
            "notice: %d of %d images are turned as their EXIF orientation says; data.exif: ignore leaves them as they "
            "are stored", turned, sum(map(len, parts)),
        )  # fmt: skip


def check_fits(data: Data, train: Data) -> None:
    """Refuse a set whose images cannot be those of a model that is trained on another.

    Raises:
        UserError: its image shape, or its class names or their order, are not those of ``train``.
    """
    if data.image_shape != train.image_shape:
        raise UserError(
            f"{data.name}: images have shape {data.image_shape}; expected {train.image_shape} as in {train.name}"
        )
    if data.class_names != train.class_names:
        raise UserError(f"{data.name}: its classes are not those of {train.name}, in the same order")


def number_parts(parts: PublishedSplits) -> PublishedSplits:
    """Number ids consecutively over the sets, so that no two images share one."""
    first = 0

    def number(part: Data) -> Data:
        nonlocal first
        numbered = replace(part, ids=part.ids + first)
        first += len(part)
        return numbered

    return parts.map(number)


def stratified_split(data: Data, *, val: float, test: float, seed: int = 0) -> Splits:
    """Split each class separately: ``round(share * n_k)`` samples, at least one, to validation and to test.

    Which samples go where depends on ``seed`` and on the class only, so adding a class leaves the others alone.
    Within a set, samples keep the order of ``data``. Where the data have groups, all samples of one go to one set, so
    the shares hold as far as the sizes of the groups allow (see `fairtat.data.groups.divide_groups`).

    Raises:
        UserError: shares outside (0, 1) or leaving nothing to train on; a class of fewer than three samples or groups.
    """
    if not (0 < val < 1 and 0 < test < 1 and val + test < 1):
        raise UserError(f"data shares val={val:g} and test={test:g}: expected both above 0 and a sum below 1")
    test_part, val_part, train_part = _divide(data, {"test": test, "val": val}, seed)
    return Splits(train=train_part, val=val_part, test=test_part)


def hold_out(data: Data, *, val: float, seed: int = 0) -> tuple[Data, Data]:
    """The training and validation sets of data whose test set is published, drawn as in `stratified_split`.

    Raises:
        UserError: a share outside (0, 1) or leaving nothing to train on; a class of fewer than two samples or groups.
    """
    if not 0 < val < 1:
        raise UserError(f"data share val={val:g}: expected a share above 0 and below 1")
    val_part, train_part = _divide(data, {"val": val}, seed)
    return train_part, val_part


def rows_per_class(labels: Tensor, count: int) -> Tensor:
    """(M,) int64, ascending: ``count`` rows of each class of ``labels`` (N,), all of a class that has fewer.

    They are spread evenly over a class's rows, as the first ones may show one object again and again.
    """
    chosen = []
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        taken = min(count, len(members))
        chosen.append(members[torch.arange(taken, device=labels.device) * len(members) // taken])
    return torch.cat(chosen).sort().values


def _divide(data: Data, shares: dict[str, float], seed: int) -> list[Data]:
    """One set for each share, and the rest."""
    if data.groups is not None:
        parts = divide_groups(data, shares, seed)
        return [data.take(rows.to(data.device)) for rows in parts]
    labels = data.labels.cpu()
    chosen: list[list[Tensor]] = [[] for _ in range(len(shares) + 1)]
    for label, class_name in enumerate(data.class_names):
        members = (labels == label).nonzero().flatten()
        count = len(members)
        where = f"{data.name}: class {label} ({class_name!r}) has {count} samples"
        if count <= len(shares):
            hint = f"; {FROM_ONE}" if label == 0 and count == 0 else ""
            raise UserError(f"{where}; expected at least {one_each(shares)}{hint}")
        sizes = [max(1, round(share * count)) for share in shares.values()]
        if sum(sizes) >= count:
            given = " and ".join(f"{name}={shares[name]:g}" for name in sorted(shares, reverse=True))
            raise UserError(f"{where}, of which {given} leave none to train on")
        generator = torch.Generator().manual_seed((seed * 1_000_003 + label) % 2**63)
        shuffled = members[torch.randperm(count, generator=generator)]
        for part, rows in zip(chosen, shuffled.split([*sizes, count - sum(sizes)]), strict=True):
            part.append(rows)
    return [data.take(torch.cat(part).sort().values.to(data.device)) for part in chosen]
