"""Image files as uint8 tensors of one size, decoded by Pillow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fairtat.errors import UserError
from fairtat.optional import optional_import

__all__ = ["Exif", "FileSource", "ImageSource", "TableSource", "open_image"]

Exif = Literal["apply", "ignore"]

_GREY = ("1", "L")
_EIGHT_BIT = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")
_LOOKED_AT = 100
_END_MARKS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
_ORIENTATION = 0x0112
_EXIF_KEYS = {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"}
# What undoes each orientation: 6 is a camera held upright, whose rows run down the picture.
_TURNS = {
    1: "",
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


def open_image(file: Any, name: str | None = None) -> Any:
    """The opened image; only its header has been read.

    Args:
        file: a path, or a binary stream.
        name: what errors call it; by default the path.

    Raises:
        UserError: Pillow is missing, or this is not an image.
    """
    image_module = optional_import("PIL.Image", purpose="reading image files", extra="vision")
    name = str(file) if name is None else name
    try:
        image = image_module.open(file)
    except FileNotFoundError:
        raise UserError(f"{name}: no such file") from None
    except Exception as error:  # a damaged file may raise almost anything in a decoder
        raise UserError(f"{name}: cannot be read as an image ({_reason(error)})") from error
    if image.format == "TIFF":
        image.filename = ""  # else Pillow 13 maps the file at its size after turning, which scrambles the pixels
    return image


class ImageSource:
    """Images that Pillow opens, all brought to the size of the first, or to ``image_size`` squared.

    Args:
        channels: 1, 3, or None: 1 if all of about a hundred images are gray. Gray images become color ones where 3
            are asked for.
        image_size: scale each image until it covers this square, then crop its center; None expects images of one size.
        exif: ``apply`` turns an image as its EXIF orientation says, ``ignore`` leaves it as it is stored. TIFF images
            are always turned: there the orientation is part of the format.

    Raises:
        UserError: the first image cannot be read.
    """

    dtype = torch.uint8

    def __init__(self, *, channels: int | None, image_size: int | None, exif: Exif) -> None:
        self._resize = image_size is not None
        self._exif = exif
        if image_size is not None:
            height = width = image_size
        else:
            with self.open(0) as image:
                height, width = _size(image, self._orientation(image))
        self.image_shape = (self._look_for_color() if channels is None else channels, height, width)

    def __len__(self) -> int:
        raise NotImplementedError

    def open(self, row: int) -> Any:
        """The image in this row, of which only the header has been read.

        Raises:
            UserError: this is not an image.
        """
        raise NotImplementedError

    def name(self, row: int) -> str:
        """What errors call it."""
        raise NotImplementedError

    def read(self, rows: Sequence[int]) -> Tensor:
        """The images (len(rows), C, H, W) in these rows.

        Raises:
            UserError: a damaged image, more than 8 bits per channel, another size, or color where gray is expected.
        """
        images = torch.empty((len(rows), *self.image_shape), dtype=torch.uint8)
        for number, row in enumerate(rows):
            with self.open(row) as image:
                self._check_header(image, row)
                images[number] = self._decoded(image, row)
        return images

    def check(self, rows: Sequence[int]) -> int:
        """Look at headers, and for the mark that ends a file; how many of the images get turned.

        What has no such mark, or not where it should be, is decoded.

        Raises:
            UserError: as `read`, except for what only the pixels show.
        """
        turned = 0
        for row in rows:
            with self.open(row) as image:
                turned += self._check_header(image, row) != 1
                whole = _is_whole(image)
            if not whole:
                self.read([row])
        return turned

    def _look_for_color(self) -> int:
        for row in range(0, len(self), max(1, len(self) // _LOOKED_AT)):
            with self.open(row) as image:
                if image.mode not in _GREY:
                    return 3
        return 1

    def _orientation(self, image: Any) -> int:
        return _orientation(image) if self._exif == "apply" else 1

    def _check_header(self, image: Any, row: int) -> int:
        channels, orientation = self.image_shape[0], self._orientation(image)
        if image.mode not in _EIGHT_BIT:
            raise UserError(
                f"{self.name(row)}: has pixels of mode {image.mode}; expected 8 bits per channel (convert it "
                "beforehand: which of its values is white is not stored)"
            )
        if channels == 1 and image.mode not in _GREY:
            raise UserError(
                f"{self.name(row)}: is in color (mode {image.mode}); expected gray, as the images looked at first are"
            )
        self._check_size(*_size(image, orientation), row)
        return orientation

    def _check_size(self, height: int, width: int, row: int) -> None:
        _, wanted_height, wanted_width = self.image_shape
        if not self._resize and (height, width) != (wanted_height, wanted_width):
            raise UserError(
                f"{self.name(row)}: is {height} pixels high and {width} wide; expected {wanted_height} and "
                f"{wanted_width}, as the first image is (set data.image_size to scale all to one size)"
            )

    def _decoded(self, image: Any, row: int) -> Tensor:
        channels, height, width = self.image_shape
        try:
            image.load()  # before the orientation is asked for, which in a PNG may stand behind the pixels
            image = _turned(image, self._orientation(image)).convert("L" if channels == 1 else "RGB")
            if self._resize:
                image = _covering(image, height, width)
            pixels = torch.from_numpy(np.array(image))
        except Exception as error:  # a damaged file may raise almost anything in a decoder
            raise UserError(f"{self.name(row)}: cannot be read as an image ({_reason(error)})") from error
        self._check_size(pixels.shape[0], pixels.shape[1], row)
        return pixels.unsqueeze(0) if channels == 1 else pixels.permute(2, 0, 1)


class TableSource(ImageSource):
    """Images in the rows of a table, which is called ``name``."""

    def __init__(self, rows: Any, name: str, *, channels: int | None, image_size: int | None, exif: Exif) -> None:
        self._rows = rows
        self._name = name
        super().__init__(channels=channels, image_size=image_size, exif=exif)

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, row: int) -> str:
        return f"{self._name}, row {row}"


class FileSource(ImageSource):
    """Image files."""

    def __init__(
        self,
        files: Sequence[str],
        *,
        channels: int | None = None,
        image_size: int | None = None,
        exif: Exif = "apply",
    ) -> None:
        self._files = files
        super().__init__(channels=channels, image_size=image_size, exif=exif)

    def __len__(self) -> int:
        return len(self._files)

    def open(self, row: int) -> Any:
        return open_image(self._files[row])

    def name(self, row: int) -> str:
        return self._files[row]


def _orientation(image: Any) -> int:
    """The EXIF orientation, 1 (as it is) to 8; of a PNG, as far as it has been read."""
    if image.format == "TIFF" or (image.format == "PNG" and not _EXIF_KEYS & image.info.keys()):
        return 1  # Pillow turns the first kind, and would decode the second to look for an orientation
    try:
        value = int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF data is not a reason to refuse an image
        return 1
    return value if value in _TURNS else 1


def _size(image: Any, orientation: int) -> tuple[int, int]:
    """(H, W) once it is turned."""
    width, height = image.size
    return (width, height) if orientation >= 5 else (height, width)


def _turned(image: Any, orientation: int) -> Any:
    if orientation == 1:
        return image
    image_module = optional_import("PIL.Image", purpose="reading image files", extra="vision")
    return image.transpose(image_module.Transpose[_TURNS[orientation]])


def _is_whole(image: Any) -> bool:
    """Whether the file ends with the mark of its format: the usual damage is a copy that broke off."""
    mark = _END_MARKS.get(image.format)
    if mark is None:
        return False
    image.fp.seek(-len(mark), os.SEEK_END)
    return bool(image.fp.read() == mark)


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
        return "it is empty, or of no known format"
    return str(error).partition("\n")[0] or type(error).__name__
