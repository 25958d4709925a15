"""Image classification sets of the Hugging Face `datasets` library."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairtat.data.image_files import decode, is_grey, spread
from fairtat.data.splits import Parts, number_parts
from fairtat.data.stream import StreamData, stream_data
from fairtat.errors import UserError
from fairtat.optional import optional_import

__all__ = ["load_huggingface"]

_VAL_NAMES = ("validation", "valid", "val")


class _Column:
    """The images of one part."""

    def __init__(self, table: Any, column: str, name: str) -> None:
        self.name = name
        self._table = table.select_columns([column])
        self._column = column

    def __len__(self) -> int:
        return len(self._table)

    def open(self, row: int) -> Any:
        """
        Raises:
            UserError: the image cannot be read.
        """
        try:
            return self._table[row][self._column]
        except Exception as error:  # a damaged image may raise almost anything in a decoder
            reason = str(error).partition("\n")[0]
            raise UserError(f"{self.name}, row {row}: cannot be read as an image ({reason})") from error


class _ColumnSource:
    dtype = torch.uint8

    def __init__(self, images: _Column, *, channels: int, image_size: int | None) -> None:
        self._images = images
        self._resize = image_size is not None
        width, height = images.open(0).size if image_size is None else (image_size, image_size)
        self.image_shape = (channels, height, width)

    def read(self, rows: Sequence[int]) -> Tensor:
        channels, height, width = self.image_shape
        read = torch.empty((len(rows), channels, height, width), dtype=torch.uint8)
        for number, row in enumerate(rows):
            name = f"{self._images.name}, row {row}"
            image = self._images.open(row)
            read[number] = decode(image, name, channels=channels, size=(height, width), resize=self._resize)
        return read


def load_huggingface(name: str, *, image_size: int | None = None) -> Parts:
    """The set ``name`` of the hub (or of its cache), or of a folder that ``save_to_disk`` wrote.

    Takes the first column of images and the first of class labels. Parts are recognised by their usual names; where
    there is a validation part and no test part, it is the test part.

    Args:
        name: for example ``uoft-cs/cifar10``, or a folder.
        image_size: scale each image until it covers this square and cut out the middle; None expects one size.

    Raises:
        UserError: `datasets` is not installed, or there is no such set, or no images and labels in it.
    """
    library = optional_import("datasets", purpose=f"the data set hf:{name}", extra="hf")
    try:
        tables = library.load_from_disk(name) if Path(name).is_dir() else library.load_dataset(name)
    except Exception as error:  # offline, unknown, gated, damaged: the library's own words say which
        reason = str(error).partition("\n")[0]
        raise UserError(f"hf:{name}: cannot be loaded ({reason})") from error
    if not isinstance(tables, dict):
        tables = {"train": tables}
    if "train" not in tables:
        raise UserError(f"hf:{name}: has the parts {', '.join(tables)}; expected train among them")
    image_column, label_column = _columns(library, tables["train"], name)
    columns = {key: _Column(table, image_column, f"hf:{name} ({key})") for key, table in tables.items()}
    train_images = columns["train"]
    grey = all(is_grey(train_images.open(row)) for row in spread(len(train_images)))

    def part(key: str) -> StreamData:
        table, images = tables[key], columns[key]
        labels = torch.tensor(table[label_column][:], dtype=torch.int64)
        if bool((labels < 0).any()):
            raise UserError(f"{images.name}: has rows without a label; expected one for each in {label_column!r}")
        source = _ColumnSource(images, channels=1 if grey else 3, image_size=image_size)
        return stream_data(f"hf:{name}", source, labels, class_names=tuple(table.features[label_column].names))

    val_key = next((key for key in _VAL_NAMES if key in tables), None)
    train, val = part("train"), part(val_key) if val_key is not None else None
    return number_parts(Parts(train, val, part("test")) if "test" in tables else Parts(train, None, val))


def _columns(library: Any, table: Any, name: str) -> tuple[str, str]:
    def first(kind: Any, what: str) -> str:
        for column, feature in table.features.items():
            if isinstance(feature, kind):
                return str(column)
        raise UserError(f"hf:{name}: has the columns {', '.join(table.features)}; expected one of {what}")

    return first(library.Image, "images"), first(library.ClassLabel, "class labels")
