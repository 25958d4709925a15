"""CIFAR-10 and CIFAR-100 from their published files.

Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009); the formats and the archives' MD5
sums are on https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

import hashlib
import tarfile
import warnings
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from fairtat.data.sets.safe_pickle import load_plain
from fairtat.data.splits import PublishedSplits, number_parts
from fairtat.data.types import ImageData, image_data
from fairtat.errors import UserError
from fairtat.optional import optional_import

__all__ = ["DEFAULT_ROOT", "load_cifar10", "load_cifar100"]

DEFAULT_ROOT = Path("data")

_PIXELS = 3 * 32 * 32
_LARGEST = 2**28  # bytes: the largest published file, CIFAR-100's train, has 1.5e8


class _Format(Protocol):
    """How a set's files are written; ``name`` is the file's, for messages."""

    def images(self, content: bytes, name: str) -> tuple[Any, Any]:
        """(N, 3, 32, 32) uint8 images and their (N,) labels."""

    def class_names(self, content: bytes, name: str) -> tuple[str, ...]:
        """In the order of the labels."""


@dataclass(frozen=True)
class _Python:
    """Pickled dicts; ``prefix`` is that of the keys with labels and class names."""

    prefix: str = ""

    def images(self, content: bytes, name: str) -> tuple[Any, Any]:
        record, label_key = load_plain(content, name), f"{self.prefix}labels"
        if not isinstance(record, dict) or not {"data", label_key} <= record.keys():
            held = ", ".join(map(str, record)) if isinstance(record, dict) else type(record).__name__
            raise UserError(f"{name}: holds {held}; expected a dict with 'data' and {label_key!r}")
        pixels, labels = record["data"], np.asarray(record[label_key])
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (_PIXELS,):
            found = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
            raise UserError(f"{name}: 'data' is {found}; expected uint8 (N, {_PIXELS})")
        if labels.dtype.kind not in "iu":
            raise UserError(f"{name}: {label_key!r} holds {labels.dtype}; expected integers")
        return pixels.reshape(-1, 3, 32, 32), labels.astype(np.int64)

    def class_names(self, content: bytes, name: str) -> tuple[str, ...]:
        record, key = load_plain(content, name), f"{self.prefix}label_names"
        if not isinstance(record, dict) or not isinstance(record.get(key), list):
            raise UserError(f"{name}: has no list {key!r} of class names")
        return tuple(str(value) for value in record[key])


@dataclass(frozen=True)
class _Binary:
    """Records of ``label_bytes`` labels, of which the last is the one wanted, and the pixels; names as text."""

    label_bytes: int

    def images(self, content: bytes, name: str) -> tuple[Any, Any]:
        record = self.label_bytes + _PIXELS
        if not content or len(content) % record:
            raise UserError(f"{name}: has {len(content)} bytes; expected a multiple of {record} (is it truncated?)")
        rows = np.frombuffer(content, dtype=np.uint8).reshape(-1, record)
        pixels, labels = rows[:, self.label_bytes :], rows[:, self.label_bytes - 1]
        return pixels.reshape(-1, 3, 32, 32), labels.astype(np.int64)

    def class_names(self, content: bytes, name: str) -> tuple[str, ...]:
        return tuple(content.decode("utf-8", errors="replace").split())


@dataclass(frozen=True)
class _Layout:
    """One of the forms in which a set is published: the same names in a folder and in an archive."""

    folder: str
    archive: str
    format: _Format
    files: tuple[str, ...]  # the train set's, then the test set's, then the one with the class names


_CIFAR10 = (
    _Layout(
        folder="cifar-10-batches-py",
        archive="cifar-10-python.tar.gz",
        format=_Python(),
        files=(*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"),
    ),
    _Layout(
        folder="cifar-10-batches-bin",
        archive="cifar-10-binary.tar.gz",
        format=_Binary(1),
        files=(*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin", "batches.meta.txt"),
    ),
)
_CIFAR100 = (
    _Layout(
        folder="cifar-100-python",
        archive="cifar-100-python.tar.gz",
        format=_Python("fine_"),
        files=("train", "test", "meta"),
    ),
    _Layout(
        folder="cifar-100-binary",
        archive="cifar-100-binary.tar.gz",
        format=_Binary(2),
        files=("train.bin", "test.bin", "fine_label_names.txt"),
    ),
)

# MD5 sums of the published files, where they are known.
_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    "train": "16019d7e3df5f24257cddd939b257f8d",
    "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
    "meta": "7973b15100ade9c7d40fb424638fde48",
}


def load_cifar10(root: str | Path | None = None, *, download: bool = False) -> PublishedSplits:
    """CIFAR-10: 50,000 training and 10,000 test images of 3 x 32 x 32, ten classes.

    Looks in ``root`` (by default ``data``) for the folders ``cifar-10-batches-py`` or ``cifar-10-batches-bin``, then
    for the archives ``cifar-10-python.tar.gz`` or ``cifar-10-binary.tar.gz``. A file that can be read but differs from
    the published one gets a warning.

    Raises:
        UserError: no such files, damaged ones, or a download that failed.
    """
    return _load("cifar10", _CIFAR10, root, download)


def load_cifar100(root: str | Path | None = None, *, download: bool = False) -> PublishedSplits:
    """CIFAR-100 with its 100 fine labels; folders ``cifar-100-python`` or ``cifar-100-binary``, as `load_cifar10`.

    Raises:
        UserError: no such files, damaged ones, or a download that failed.
    """
    return _load("cifar100", _CIFAR100, root, download)


def _load(name: str, layouts: tuple[_Layout, ...], root: str | Path | None, download: bool) -> PublishedSplits:
    folder = DEFAULT_ROOT if root is None else Path(root)
    found = _find(layouts, folder)
    if found is None and download:
        _download(name, folder)
        found = _find(layouts, folder)
    if found is None:
        places = ", ".join([f"{layout.folder}/" for layout in layouts] + [layout.archive for layout in layouts])
        raise UserError(
            f"{name}: not found in {folder.absolute()} ({places}); set data.root to where it lies, set data.download, "
            "or get it from https://www.cs.toronto.edu/~kriz/cifar.html"
        )
    layout, place = found
    contents = _archive_contents(place, layout) if place.is_file() else _folder_contents(place, layout)
    for file, content in contents.items():
        _compare(_MD5.get(file), content, str(place / file))
    *train, test, names_file = layout.files
    names = layout.format.class_names(contents[names_file], str(place / names_file))

    def read(files: list[str]) -> ImageData:
        batches = []
        for file in files:
            where = str(place / file)
            images, labels = layout.format.images(contents[file], where)
            batches.append(image_data(where, images.copy(), labels, class_names=names, layout="nchw"))
        images = torch.cat([batch.images for batch in batches])
        return replace(
            batches[0],
            name=name,
            images=images,
            labels=torch.cat([batch.labels for batch in batches]),
            ids=torch.arange(len(images)),
        )

    return number_parts(PublishedSplits(train=read(train), test=read([test])))


def _find(layouts: tuple[_Layout, ...], root: Path) -> tuple[_Layout, Path] | None:
    """The first layout whose files are there; ``root`` may also be the published folder itself."""
    for layout in layouts:
        for folder in (root / layout.folder, root):
            if any((folder / file).is_file() for file in (layout.files[0], layout.files[-1])):
                return layout, folder
    for layout in layouts:
        if (root / layout.archive).is_file():
            return layout, root / layout.archive
    return None


def _folder_contents(folder: Path, layout: _Layout) -> dict[str, bytes]:
    try:
        return {file: (folder / file).read_bytes() for file in layout.files}
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: no such file, though others of the set are there") from None
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _archive_contents(archive: Path, layout: _Layout) -> dict[str, bytes]:
    """The wanted members, in one pass over the compressed file."""
    wanted = {f"{layout.folder}/{file}": file for file in layout.files}
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r|gz") as tar:
            for member in tar:
                file = wanted.get(member.name.removeprefix("./"))
                stream = tar.extractfile(member) if file is not None and member.isfile() else None
                if file is not None and stream is not None:
                    if member.size > _LARGEST:
                        raise UserError(
                            f"{archive}: {member.name} takes {member.size} bytes; is it the published archive?"
                        )
                    contents[file] = stream.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"{archive}: cannot be read as a .tar.gz archive ({error}); fetch it again") from error
    missing = [file for file in layout.files if file not in contents]
    if missing:
        raise UserError(f"{archive}: has no {layout.folder}/{missing[0]}; is it the published archive?")
    return contents


def _compare(published: str | None, content: bytes, name: str) -> None:
    if published is None:
        return
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != published:
        warnings.warn(
            f"{name}: is not the published file (MD5 {found}, published {published}); unless you made it yourself, it "
            "is damaged: fetch it again",
            stacklevel=2,
        )


def _download(name: str, root: Path) -> None:
    datasets = optional_import("torchvision.datasets", purpose=f"downloading {name}", extra="vision")
    try:
        getattr(datasets, name.upper())(root=str(root), download=True)
    except (OSError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{name}: cannot be downloaded to {root.absolute()} ({reason})") from error
