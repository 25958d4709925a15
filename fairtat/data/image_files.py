"""Image files as uint8 tensors of one size, decoded by Pillow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairtat.errors import UserError
from fairtat.optional import optional_import

__all__ = ["FileSource", "channels_of", "decode", "is_grey", "open_image", "spread"]

_GREY = ("1", "L")
_EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")
_LOOKED_AT = 100


def open_image(file: str) -> Any:
    """The opened image; only its header has been read.

    Raises:
        UserError: Pillow is missing, or this is no image.
    """
    image_module = optional_import("PIL.Image", purpose="reading image files", extra="vision")
    try:
        return image_module.open(file)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except Exception as error:  # a damaged file may raise almost anything in a decoder
        raise UserError(f"{file}: cannot be read as an image ({_reason(error)})") from error


def is_grey(image: Any) -> bool:
    return image.mode in _GREY


def spread(count: int) -> range:
    """About a hundred rows over all of ``count``: enough to tell grey sets from coloured ones."""
    return range(0, count, max(1, count // _LOOKED_AT))


def channels_of(files: Sequence[str]) -> int:
    """1 if the images are grey, else 3: from the headers of some of them."""
    for row in spread(len(files)):
        with open_image(files[row]) as image:
            if not is_grey(image):
                return 3
    return 1


def decode(image: Any, name: str, *, channels: int, size: tuple[int, int], resize: bool) -> Tensor:
    """A Pillow image as (channels, H, W) uint8.

    Args:
        image: as `open_image` gives it.
        name: what errors call it.
        channels: 1 or 3; grey images become colour ones where 3 are asked for.
        size: (H, W) that the result must have.
        resize: scale the image until it covers ``size``, then cut out the middle.

    Raises:
        UserError: a damaged image, more than 8 bits a channel, another size, or colour where grey is expected.
    """
    if image.mode not in _EIGHT_BIT:
        raise UserError(f"{name}: has pixels of mode {image.mode}; expected 8 bits a channel")
    if channels == 1 and not is_grey(image):
        raise UserError(f"{name}: is in colour (mode {image.mode}); expected grey, as the files looked at first are")
    try:
        image = image.convert("L" if channels == 1 else "RGB")
        if resize:
            image = _covering(image, *size)
        pixels = torch.from_numpy(np.array(image))
    except Exception as error:  # see open_image
        raise UserError(f"{name}: cannot be read as an image ({_reason(error)})") from error
    pixels = pixels.unsqueeze(0) if channels == 1 else pixels.permute(2, 0, 1)
    if pixels.shape[1:] != size:
        height, width = pixels.shape[1:]
        raise UserError(
            f"{name}: is {height} pixels high and {width} wide; expected {size[0]} and {size[1]}, as the first image "
            "is (set data.image_size to scale all to one size)"
        )
    return pixels


class FileSource:
    """Image files, all brought to the size of the first, or to ``image_size`` squared."""

    dtype = torch.uint8

    def __init__(self, files: Sequence[str], *, channels: int, image_size: int | None = None) -> None:
        self._files = files
        self._resize = image_size is not None
        if image_size is not None:
            height = width = image_size
        else:
            with open_image(files[0]) as image:
                width, height = image.size
        self.image_shape = (channels, height, width)

    def read(self, rows: Sequence[int]) -> Tensor:
        channels, height, width = self.image_shape
        images = torch.empty((len(rows), channels, height, width), dtype=torch.uint8)
        for number, row in enumerate(rows):
            file = self._files[row]
            with open_image(file) as image:
                images[number] = decode(image, file, channels=channels, size=(height, width), resize=self._resize)
        return images


def _covering(image: Any, height: int, width: int) -> Any:
    if image.size == (width, height):
        return image
    image_module = optional_import("PIL.Image", purpose="reading image files", extra="vision")
    scale = max(height / image.height, width / image.width)
    scaled = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
    image = image.resize(scaled, image_module.Resampling.BILINEAR)
    left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
    return image.crop((left, top, left + width, top + height))


def _reason(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":  # Pillow's message is the path once more
        return "of no known format"
    return str(error).partition("\n")[0] or type(error).__name__
