"""A user's own images, from one ``.npz`` file."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

from fairtat.data.types import ImageData, image_data
from fairtat.errors import UserError
from fairtat.optional import optional_import

__all__ = ["load_npz"]


def load_npz(path: str | Path) -> ImageData:
    """Load ``images``, ``labels`` and optionally ``class_names`` from a file written by ``numpy.savez``.

    Shapes: images (N, H, W), (N, C, H, W) or (N, H, W, C), uint8 in [0, 255] or floats in [0, 1];
    labels (N,) integers; class_names (C,) strings.

    Raises:
        UserError: the file is missing, is not such a file, or holds values that cannot be trained on.
    """
    numpy = optional_import("numpy", purpose="reading .npz files")
    name = str(path)
    try:
        with Path(path).open("rb") as stream:
            archive = numpy.load(stream, allow_pickle=False)
            if not hasattr(archive, "files"):  # a plain .npy array under another name
                raise UserError(f"{name}: holds a single array; expected the arrays 'images' and 'labels'")
            arrays = {key: archive[key] for key in archive.files}
    except FileNotFoundError:
        raise UserError(f"{name}: no such file") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        # The first line only: numpy's messages go on about pickles.
        reason = str(error).partition("\n")[0]
        raise UserError(f"{name}: cannot be read as an .npz file of plain arrays ({reason})") from error
    missing = [key for key in ("images", "labels") if key not in arrays]
    if missing:
        held = ", ".join(sorted(arrays)) or "nothing"
        raise UserError(f"{name}: has no array {missing[0]!r}; it holds {held}")
    for key in ("images", "labels"):
        if arrays[key].dtype.kind not in "biuf":
            raise UserError(f"{name}: {key} has dtype {arrays[key].dtype}; expected numbers")
    names = arrays.get("class_names")
    return image_data(
        name,
        _torch_ready(arrays["images"]),
        _torch_ready(arrays["labels"]),
        class_names=None if names is None else tuple(str(value) for value in names.reshape(-1)),
    )


def _torch_ready(array: Any) -> Any:
    """Native byte order, and no unsigned type wider than 8 bits: PyTorch has neither."""
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        return array.astype("int64")
    return array.astype(array.dtype.newbyteorder("="))
