"""Folders of images: one subfolder per class, as in ImageNet and many others."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from fairtat.data.image_files import Exif, FileSource
from fairtat.data.splits import PublishedSplits, number_parts
from fairtat.data.stream import StreamData, stream_data
from fairtat.errors import UserError

__all__ = ["is_data", "load_folder"]

_EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
# What archives and network drives leave beside the data.
_FOREIGN = ("__MACOSX", "@eaDir")
_TRAIN_NAMES = ("train", "training")
_TEST_NAMES = ("test", "testing")
_VAL_NAMES = ("val", "valid", "validation")


def load_folder(path: str | Path, *, image_size: int | None = None, exif: Exif = "apply") -> PublishedSplits:
    """Images below ``path/CLASS/``, or below ``path/train/CLASS/`` with ``test`` and ``val`` beside ``train``.

    Classes are the subfolders in alphabetical order; hidden files and folders, and those of macOS archives, are
    skipped. With ``val`` but no ``test``, ``val`` is the test set, as for ImageNet, whose own test images have no
    labels. Gray images become color ones if any of the images looked at is in color.

    Args:
        path: the folder.
        image_size: scale each image until it covers this square and crop its center; None expects images of one size.
        exif: ``apply`` turns images as their EXIF orientation says, ``ignore`` leaves them as they are stored.

    Raises:
        UserError: no such folder, no classes or images in it, or sets whose classes differ.
    """
    root = Path(path)
    folders = {name.lower(): name for name in _subfolders(root)}
    train_folder, test_folder, val_folder = (
        next((root / folders[name] for name in names if name in folders), None)
        for names in (_TRAIN_NAMES, _TEST_NAMES, _VAL_NAMES)
    )
    only_parts = bool(folders) and set(folders) <= {*_TRAIN_NAMES, *_TEST_NAMES, *_VAL_NAMES}
    if only_parts and train_folder is None:
        raise UserError(f"{root}: holds {' and '.join(sorted(folders.values()))}, but no train beside them")
    # Among cars and planes, "train" is a class.
    if train_folder is None or not (only_parts or _subfolders(train_folder)):
        return PublishedSplits(_part(root, str(root), image_size, exif))
    train = _part(train_folder, str(root), image_size, exif)
    test, val = (
        None if folder is None else _part(folder, str(root), image_size, exif, train_folder, train)
        for folder in (test_folder, val_folder)
    )
    return number_parts(PublishedSplits(train, val, test) if test is not None else PublishedSplits(train, None, val))


def _subfolders(folder: Path) -> list[str]:
    """Names of the folders in it that hold data, sorted.

    Raises:
        UserError: no such folder, or one that cannot be read.
    """
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and is_data(entry.name))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder.absolute()}: no such folder") from None
    except OSError as error:
        raise UserError(f"{folder.absolute()}: cannot be read ({error.strerror})") from error


def is_data(name: str) -> bool:
    """Whether a file or folder of this name belongs to the data: hidden ones and what tools leave do not."""
    return not name.startswith(".") and name not in _FOREIGN


def _part(
    folder: Path,
    name: str,
    image_size: int | None,
    exif: Exif,
    train_folder: Path | None = None,
    train: StreamData | None = None,
) -> StreamData:
    """One set; its classes and image shape must be those of the training set, if that is another."""
    classes = _subfolders(folder)
    known = classes if train_folder is None else _subfolders(train_folder)
    if len(known) < 2:
        raise UserError(f"{folder}: has {len(known)} subfolders; expected one for each class, at least 2")
    strangers = sorted(set(classes) - set(known))
    if strangers:
        raise UserError(f"{folder}: has class {strangers[0]!r}, which the training set does not have")
    files: list[str] = []
    labels: list[int] = []
    for label, class_name in enumerate(known):
        found = _images_below(folder / class_name) if class_name in classes else []
        if not found and train is None:
            raise UserError(f"{folder / class_name}: holds no images ({', '.join(_EXTENSIONS)})")
        files += found
        labels += [label] * len(found)
    if not files:
        raise UserError(f"{folder}: holds no images ({', '.join(_EXTENSIONS)})")
    channels = None if train is None else train.image_shape[0]
    source = FileSource(files, channels=channels, image_size=image_size, exif=exif)
    if train is not None and source.image_shape != train.image_shape:
        (_, height, width), (_, found_height, found_width) = train.image_shape, source.image_shape
        raise UserError(
            f"{files[0]}: is {found_height} pixels high and {found_width} wide; expected {height} and {width}, as the "
            "training set's images are (set data.image_size to scale all to one size)"
        )
    return stream_data(name, source, torch.tensor(labels), class_names=tuple(known))


def _images_below(folder: Path) -> list[str]:
    """Image files in it and in its subfolders, in an order that does not depend on the file system.

    Raises:
        UserError: a folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})") from error

    found: list[str] = []
    seen: set[str] = set()  # a link may lead back up
    for where, folders, names in os.walk(folder, followlinks=True, onerror=fail):
        place = os.path.realpath(where)
        if place in seen:
            folders.clear()
            continue
        seen.add(place)
        folders[:] = sorted(filter(is_data, folders))
        images = (name for name in sorted(names) if is_data(name) and name.lower().endswith(_EXTENSIONS))
        found += [os.path.join(where, name) for name in images]  # noqa: PTH118 - a million strings
    return found
