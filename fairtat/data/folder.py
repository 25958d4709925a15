"""Folders of images: one subfolder a class, as ImageNet and many others are laid out."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from fairtat.data.image_files import FileSource, channels_of
from fairtat.data.splits import Parts, number_parts
from fairtat.data.stream import StreamData, stream_data
from fairtat.errors import UserError

__all__ = ["load_folder", "subfolders"]

_EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_VAL_NAMES = ("val", "valid", "validation")


def load_folder(path: str | Path, *, image_size: int | None = None) -> Parts:
    """Images below ``path/CLASS/``, or below ``path/train/CLASS/`` with ``test`` and ``val`` beside ``train``.

    Classes are the subfolders in alphabetical order. Where ``val`` is there and ``test`` is not, ``val`` is the test
    part, as it is for ImageNet, whose own test images have no labels. Grey images become colour ones if any of those
    looked at is in colour.

    Args:
        path: the folder.
        image_size: scale each image until it covers this square and cut out the middle; None expects one size.

    Raises:
        UserError: no such folder, no classes or images in it, or parts whose classes differ.
    """
    root = Path(path)
    folders = subfolders(root)
    if "train" not in folders:
        return Parts(_part(root, str(root), None, image_size))
    train = _part(root / "train", str(root), None, image_size)
    others = {
        part: _part(root / part, str(root), train, image_size) for part in ("test", *_VAL_NAMES) if part in folders
    }
    test = others.pop("test", None)
    val = next(iter(others.values()), None)
    return number_parts(Parts(train, val, test) if test is not None else Parts(train, None, val))


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in it, sorted; hidden ones left out.

    Raises:
        UserError: no such folder.
    """
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder.absolute()}: no such folder") from None


def _part(folder: Path, name: str, like: StreamData | None, image_size: int | None) -> StreamData:
    """One part; classes and image shape are those of the part that it belongs to (``like``), if any."""
    classes = subfolders(folder)
    known = classes if like is None else list(like.class_names)
    if len(known) < 2:
        raise UserError(f"{folder}: has {len(known)} subfolders; expected one for each class, at least 2")
    strangers = sorted(set(classes) - set(known))
    if strangers:
        raise UserError(f"{folder}: has class {strangers[0]!r}, which the train part has not")
    files: list[str] = []
    labels: list[int] = []
    for label, class_name in enumerate(known):
        found = _images_below(folder / class_name)
        if not found and like is None:
            raise UserError(f"{folder / class_name}: holds no images ({', '.join(_EXTENSIONS)})")
        files += found
        labels += [label] * len(found)
    if not files:
        raise UserError(f"{folder}: holds no images ({', '.join(_EXTENSIONS)})")
    channels = channels_of(files) if like is None else like.image_shape[0]
    source = FileSource(files, channels=channels, image_size=image_size)
    if like is not None and source.image_shape != like.image_shape:
        (_, height, width), (_, found_height, found_width) = like.image_shape, source.image_shape
        raise UserError(
            f"{files[0]}: is {found_height} pixels high and {found_width} wide; expected {height} and {width}, as the "
            "train part's images are (set data.image_size to scale all to one size)"
        )
    return stream_data(name, source, torch.tensor(labels), class_names=tuple(known))


def _images_below(folder: Path) -> list[str]:
    """Image files in it and in its subfolders, in an order that does not depend on the file system."""
    found: list[str] = []
    for where, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        found += [os.path.join(where, name) for name in sorted(names) if name.lower().endswith(_EXTENSIONS)]  # noqa: PTH118 - a million strings
    return found
