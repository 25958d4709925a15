"""A user's own images, from ``.npz`` files."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fairtat.data.groups import AUTO, NONE
from fairtat.data.splits import PublishedSplits, check_fits, number_parts
from fairtat.data.stream import Data, free_memory
from fairtat.data.types import ImageData, Layout, image_data
from fairtat.errors import UserError

__all__ = ["load_npz", "load_npz_images", "load_npz_parts", "load_npz_test"]


# What the arrays of each set may be called: ours, those of MedMNIST and of Keras, and of published generated images.
_NAMES: dict[str, tuple[tuple[str, str], ...]] = {
    "train": (("images", "labels"), ("train_images", "train_labels"), ("x_train", "y_train"), ("image", "label")),
    "val": (("val_images", "val_labels"), ("x_val", "y_val")),
    "test": (("test_images", "test_labels"), ("x_test", "y_test")),
}
_GROUPS = "groups"


def load_npz(path: str | Path, *, layout: Layout = "auto") -> ImageData:
    """Load ``images``, ``labels`` and optionally ``class_names`` and ``groups`` from a file of ``numpy.savez``.

    Shapes: images (N, H, W), (N, C, H, W) or (N, H, W, C), uint8 in [0, 255], floats in [0, 1] or bools;
    labels (N,) or (N, 1) whole numbers or text; class_names (C,) text; groups (N,) whole numbers or text. Nothing in
    the file is unpickled, and an array is read only if it fits into the memory that is free.

    Args:
        path: the file; of one with several sets (see `load_npz_parts`), the training set is read.
        layout: which axis of four holds the channels; see `image_data`.

    Raises:
        UserError: the file is missing, is not an .npz file, or holds values that cannot be trained on.
    """
    with _opened(path) as arrays:
        return _set(arrays, "train", layout, groups=AUTO)


def load_npz_parts(
    path: str | Path, *, layout: Layout = "auto", test_file: str | Path | None = None, groups: str = AUTO
) -> PublishedSplits:
    """The sets of a file: beside the training set of `load_npz`, those for validation and for testing, if it has them.

    Names of the arrays, of images and labels: ``images`` and ``labels``, ``train_images`` and ``train_labels``,
    ``x_train`` and ``y_train``, or ``image`` and ``label``; ``test_images`` and ``test_labels``, or ``x_test`` and
    ``y_test``; and likewise with ``val``. Ids number the sets' images one after the other.

    Args:
        path, layout: as for `load_npz`.
        test_file: another file with the test set, under the names of a test or of a training set.
        groups: the array that holds the groups of the training images; with ``test_`` and ``val_`` before its name,
            those of the other sets. ``auto`` is ``groups`` where the file has it; ``none`` reads none.

    Raises:
        UserError: as `load_npz`; two test sets; sets whose classes or image shapes differ; no such array of groups.
    """
    with _opened(path) as arrays:
        train = _set(arrays, "train", layout, groups)
        others = {part: _set(arrays, part, layout, groups, like=train) for part in ("val", "test") if arrays.has(part)}
    if test_file is None:
        return number_parts(PublishedSplits(train, others.get("val"), others.get("test")))
    if "test" in others:
        raise UserError(f"data.test_file is {test_file}, but {path} has a test set of its own; expected one of them")
    with _opened(test_file) as arrays:
        test = _set(arrays, "test" if arrays.has("test") else "train", layout, groups, like=train)
    return number_parts(PublishedSplits(train, others.get("val"), test))


def load_npz_test(path: str | Path, *, layout: Layout = "auto") -> ImageData | None:
    """The test set of a file, with the ids that `load_npz_parts` gives it; None where the file has none.

    Raises:
        UserError: as `load_npz_parts`; a training set may be missing.
    """
    with _opened(path) as arrays:
        if not arrays.has("test"):
            return None
        if not arrays.has("train"):
            return _set(arrays, "test", layout, groups=NONE)
    test = load_npz_parts(path, layout=layout).test
    assert isinstance(test, ImageData)
    return test


def load_npz_images(path: str | Path, *, like: Data, layout: Layout = "auto") -> ImageData:
    """Images for training beside those of ``like``, perhaps without labels: a missing one is -1.

    The arrays are those of a training set, of which the labels may be missing, as a whole or one by one (-1).

    Raises:
        UserError: as `load_npz`, or classes or images that are not those of ``like``.
    """
    with _opened(path) as arrays:
        images, labels = arrays.names("train", labels_needed=False)
        found = None if labels is None else arrays.read(labels).reshape(-1)
        if found is None:
            found = np.full(len(arrays.read(images)), -1)
        known = found if found.dtype.kind in "US" else np.where(found == -1, 0, found)
        data = replace(_set(arrays, "train", layout, groups=NONE, like=like, labels=known), name=str(path))
    if found.dtype.kind not in "US":
        data.labels[torch.from_numpy(found == -1)] = -1
    return data


class _Arrays:
    """The arrays of an open file, each read when it is asked for."""

    def __init__(self, name: str, archive: zipfile.ZipFile) -> None:
        self.name = name
        self._archive = archive
        self.held = sorted(member.removesuffix(".npy") for member in archive.namelist())

    def has(self, part: str) -> bool:
        """Whether any array of this set is there."""
        return any(name in self.held for pair in _NAMES[part] for name in pair)

    def names(self, part: str, *, labels_needed: bool = True) -> tuple[str, str | None]:
        """What images and labels of this set are called here.

        Raises:
            UserError: one of them is missing.
        """
        holds = f"it holds {', '.join(self.held) or 'nothing'}"
        for images, labels in _NAMES[part]:
            if images in self.held and (labels in self.held or not labels_needed):
                return images, labels if labels in self.held else None
        for images, labels in _NAMES[part]:
            for present, missing in ((images, labels), (labels, images)):
                if present in self.held:
                    raise UserError(f"{self.name}: has no array {missing!r} beside {present!r}; {holds}")
        expected = ", or ".join(f"{images} and {labels}" for images, labels in _NAMES[part])
        raise UserError(f"{self.name}: has no images and labels; {holds}; expected {expected}")

    def read(self, key: str) -> Any:
        return _array(self.name, self._archive, key)


@contextmanager
def _opened(path: str | Path) -> Iterator[_Arrays]:
    name = str(path)
    try:
        with Path(path).open("rb") as stream:
            if stream.read(6) == b"\x93NUMPY":
                raise UserError(f"{name}: holds a single array; expected the arrays 'images' and 'labels'")
            with zipfile.ZipFile(stream) as archive:
                yield _Arrays(name, archive)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{name}: no such file") from None
    except Exception as error:  # a damaged archive may raise almost anything in a decoder
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{name}: cannot be read as an .npz file of plain arrays ({reason})") from error


def _set(
    arrays: _Arrays, part: str, layout: Layout, groups: str, *, like: Data | None = None, labels: Any = None
) -> ImageData:
    """One set of a file; ``like`` is the training set that it must fit, ``labels`` stand in for those of the file."""
    of_images, of_labels = arrays.names(part, labels_needed=labels is None)
    name = arrays.name if like is None else f"{arrays.name} ({part})"
    images = arrays.read(of_images)
    if images.dtype.kind not in "biuf":
        raise UserError(f"{name}: {of_images} has dtype {images.dtype}; expected numbers")
    names = None if like is None else like.class_names
    if "class_names" in arrays.held:
        names = tuple(_text(value) for value in arrays.read("class_names").reshape(-1))
    data = image_data(
        name,
        images.astype(images.dtype.newbyteorder("="), copy=False),  # PyTorch has no other
        labels if of_labels is None or labels is not None else arrays.read(of_labels),
        class_names=names,
        layout=layout,
        groups=_groups(arrays, part, groups),
    )
    if like is not None:
        check_fits(data, like)
    return data


def _groups(arrays: _Arrays, part: str, groups: str) -> Any:
    if groups == NONE:
        return None
    wanted = _GROUPS if groups == AUTO else groups
    key = wanted if part == "train" else f"{part}_{wanted}"
    if key in arrays.held:
        return arrays.read(key)
    if groups != AUTO and part == "train":
        raise UserError(
            f"{arrays.name}: has no array {key!r}, which data.groups names; it holds {', '.join(arrays.held)}"
        )
    return None


def _array(name: str, archive: zipfile.ZipFile, key: str) -> Any:
    """One array, after a look at its header: what it claims is allocated at once, whatever the file really holds."""
    with archive.open(f"{key}.npy") as member:
        shape, dtype = _header(member)
        if dtype.hasobject:
            raise UserError(
                f"{name}: {key} is an array of Python objects, which would run code when read; expected numbers or "
                f"text: save {key}.astype(str), or numbers of one shape"
            )
        needed, free = math.prod(shape) * dtype.itemsize, free_memory(torch.device("cpu"))
        if needed > archive.getinfo(f"{key}.npy").file_size:
            raise ValueError(f"{key} claims {needed} bytes, more than the file holds")
        if 0 < free < needed:
            raise UserError(f"{name}: {key} takes {needed / 2**30:.1f} GiB; {free / 2**30:.1f} GiB of memory are free")
    with archive.open(f"{key}.npy") as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def _header(member: Any) -> tuple[tuple[int, ...], Any]:
    version = np.lib.format.read_magic(member)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"format version {version[0]}.{version[1]}")
    shape, _, dtype = read(member)
    return shape, dtype


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
