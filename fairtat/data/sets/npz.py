"""A user's own images, from one ``.npz`` file."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fairtat.data.stream import free_memory
from fairtat.data.types import ImageData, Layout, image_data
from fairtat.errors import UserError

__all__ = ["load_npz"]


def load_npz(path: str | Path, *, layout: Layout = "auto") -> ImageData:
    """Load ``images``, ``labels`` and optionally ``class_names`` from a file written by ``numpy.savez``.

    Shapes: images (N, H, W), (N, C, H, W) or (N, H, W, C), uint8 in [0, 255], floats in [0, 1] or bools;
    labels (N,) or (N, 1) whole numbers or text; class_names (C,) text. Nothing in the file is unpickled, and an array
    is read only if it fits into the memory that is free.

    Args:
        path: the file.
        layout: which axis of four holds the channels; see `image_data`.

    Raises:
        UserError: the file is missing, is not an .npz file, or holds values that cannot be trained on.
    """
    name = str(path)
    try:
        with Path(path).open("rb") as stream:
            if stream.read(6) == b"\x93NUMPY":
                raise UserError(f"{name}: holds a single array; expected the arrays 'images' and 'labels'")
            with zipfile.ZipFile(stream) as archive:
                arrays = _arrays(name, archive)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{name}: no such file") from None
    except Exception as error:  # a damaged archive may raise almost anything in a decoder
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{name}: cannot be read as an .npz file of plain arrays ({reason})") from error
    images, names = arrays["images"], arrays.get("class_names")
    if images.dtype.kind not in "biuf":
        raise UserError(f"{name}: images has dtype {images.dtype}; expected numbers")
    return image_data(
        name,
        images.astype(images.dtype.newbyteorder("="), copy=False),  # PyTorch has no other
        arrays["labels"],
        class_names=None if names is None else tuple(_text(value) for value in names.reshape(-1)),
        layout=layout,
    )


def _arrays(name: str, archive: zipfile.ZipFile) -> dict[str, Any]:
    held = sorted(member.removesuffix(".npy") for member in archive.namelist())
    missing = [key for key in ("images", "labels") if key not in held]
    if missing:
        raise UserError(f"{name}: has no array {missing[0]!r}; it holds {', '.join(held) or 'nothing'}")
    return {key: _array(name, archive, key) for key in ("images", "labels", "class_names") if key in held}


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
