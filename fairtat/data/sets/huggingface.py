"""Image classification sets of the Hugging Face `datasets` library."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

from fairtat.data.image_files import Exif, TableSource, open_image
from fairtat.data.labels import read_labels
from fairtat.data.splits import PublishedSplits, number_parts
from fairtat.data.stream import StreamData, stream_data
from fairtat.errors import UserError
from fairtat.optional import optional_import

__all__ = ["load_huggingface"]

_VAL_NAMES = ("validation", "valid", "val")
_LABELS = ("label", "labels")


class _ColumnSource(TableSource):
    """The images of one split."""

    def __init__(
        self, table: Any, column: str, name: str, *, channels: int | None, image_size: int | None, exif: Exif
    ) -> None:
        self._feature = table.features[column]
        self._column = column
        # Undecoded: the library would read the pixels to show a header, and apply the EXIF orientation.
        rows = table.select_columns([column]).cast_column(column, replace(self._feature, decode=False))
        super().__init__(rows, name, channels=channels, image_size=image_size, exif=exif)

    def open(self, row: int) -> Any:
        stored = self._rows[row][self._column]
        if stored is None:
            raise UserError(f"{self.name(row)}: holds no image")
        if stored["bytes"] is not None:
            image = open_image(BytesIO(stored["bytes"]), self.name(row))
        elif Path(stored["path"]).is_file():
            image = open_image(stored["path"], f"{self.name(row)} ({stored['path']})")
        else:
            return self._from_library(stored, row)
        # The mode that the set declares: its pixels are needed to get there.
        return image if self._feature.mode in (None, image.mode) else self._from_library(stored, row)

    def _from_library(self, stored: dict[str, Any], row: int) -> Any:
        """Let the library find images in archives and on the network, and convert them as declared."""
        try:
            return self._feature.decode_example(stored)
        except Exception as error:  # whatever a network or a decoder raises
            reason = str(error).partition("\n")[0]
            raise UserError(f"{self.name(row)}: cannot be read as an image ({reason})") from error


def load_huggingface(name: str, *, image_size: int | None = None, exif: Exif = "apply") -> PublishedSplits:
    """The set ``name`` of the hub (or of its cache), or of a folder that ``save_to_disk`` wrote.

    Takes the first column of images, and the first of class labels or else the column ``label`` or ``labels`` of
    integers, bools or text. Splits are recognized by their usual names; where there is a validation split and no
    test split, it is the test set.

    Args:
        name: for example ``uoft-cs/cifar10``, or a folder.
        image_size: scale each image until it covers this square and crop its center; None expects images of one size.
        exif: ``apply`` turns images as their EXIF orientation says, ``ignore`` leaves them as they are stored.

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
        raise UserError(f"hf:{name}: has the splits {', '.join(tables)}; expected train among them")
    image_column, label_column = _columns(library, tables["train"], name)
    class_names = _class_names(tables["train"], label_column)
    channels: int | None = None

    def part(key: str) -> StreamData:
        nonlocal class_names, channels
        table, where = tables[key], f"hf:{name} ({key})"
        for column in (image_column, label_column):
            if column not in table.features:
                raise UserError(
                    f"{where}: has the columns {', '.join(table.features)}; expected {column!r} as in train"
                )
        if _class_names(table, label_column) not in (None, class_names):
            raise UserError(f"{where}: its classes are not those of the train split, in the same order")
        stored = table[label_column][:]
        if any(label is None or label == -1 for label in stored):
            raise UserError(f"{where}: has rows without a label; expected one for each in {label_column!r}")
        labels, found = read_labels(where, stored, class_names=class_names)
        source = _ColumnSource(table, image_column, where, channels=channels, image_size=image_size, exif=exif)
        data = stream_data(f"hf:{name}", source, labels, class_names=found)
        class_names, channels = found or data.class_names, data.image_shape[0]
        return data

    train = part("train")  # first: the others are read as it is
    val_key = next((key for key in _VAL_NAMES if key in tables), None)
    val, test = (part(key) if key is not None and key in tables else None for key in (val_key, "test"))
    return number_parts(PublishedSplits(train, val, test) if test is not None else PublishedSplits(train, None, val))


def _columns(library: Any, table: Any, name: str) -> tuple[str, str]:
    """The columns of images and labels."""
    features = table.features.items()
    images = [column for column, feature in features if isinstance(feature, library.Image)]
    labels = [column for column, feature in features if isinstance(feature, library.ClassLabel)]
    labels += [column for column, feature in features if column in _LABELS and isinstance(feature, library.Value)]
    for found, what in ((images, "images"), (labels, "class labels, or one called label or labels")):
        if not found:
            raise UserError(f"hf:{name}: has the columns {', '.join(table.features)}; expected one of {what}")
    return images[0], labels[0]


def _class_names(table: Any, column: str) -> tuple[str, ...] | None:
    """The class names that the column declares, if any."""
    names = getattr(table.features[column], "names", None)
    return None if names is None else tuple(names)
