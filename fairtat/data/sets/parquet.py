"""Images and labels in Parquet files, as Hugging Face `datasets` writes them."""

from __future__ import annotations

import json
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairtat.data.image_files import Exif, TableSource, open_image
from fairtat.data.labels import read_labels
from fairtat.data.splits import PublishedSplits, check_fits, number_parts
from fairtat.data.stream import StreamData, free_memory, stream_data
from fairtat.errors import UserError
from fairtat.optional import optional_import

__all__ = ["load_parquet"]

_LABELS = ("label", "labels")
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.parquet")


def load_parquet(
    path: str | Path, *, test_file: str | Path | None = None, image_size: int | None = None, exif: Exif = "apply"
) -> PublishedSplits:
    """The images of a ``.parquet`` file with their labels, and those of ``test_file`` as the test set.

    The columns are those that `datasets` declares in the file: the first of images and the first of class labels.
    Without such a declaration, the first column of bytes, or of structs with a field ``bytes``, holds the images, and
    ``label`` or ``labels`` whole numbers or text. A shard (``train-00000-of-00003.parquet``) stands for all of them.
    The encoded images are kept in memory.

    Args:
        path: the file, or one of its shards.
        test_file: another file, or a shard, with the test set.
        image_size: scale each image until it covers this square and crop its center; None expects images of one size.
        exif: ``apply`` turns images as their EXIF orientation says, ``ignore`` leaves them as they are stored.

    Raises:
        UserError: pyarrow is not installed, a file or a shard is missing or damaged, or has no images and labels.
    """
    train = _part(path, None, image_size, exif)
    if test_file is None:
        return PublishedSplits(train)
    test = _part(test_file, train, image_size, exif)
    check_fits(test, train)
    return number_parts(PublishedSplits(train, None, test))


class _BytesSource(TableSource):
    """The encoded images of a column."""

    def open(self, row: int) -> Any:
        content = self._rows[row].as_py()
        if content is None:
            raise UserError(f"{self.name(row)}: holds no bytes of an image; expected the images in the file itself")
        return open_image(BytesIO(content), self.name(row))


def _part(path: str | Path, train: StreamData | None, image_size: int | None, exif: Exif) -> StreamData:
    name = str(path)
    arrow = optional_import("pyarrow", purpose=f"the data set {name}", extra="parquet")
    parquet = optional_import("pyarrow.parquet", purpose=f"the data set {name}", extra="parquet")
    files = _shards(Path(path))
    try:
        schema = parquet.read_schema(files[0])
        images, label, names = _columns(arrow, schema, name)
        needed, free = sum(_size(parquet.read_metadata(file)) for file in files), free_memory(torch.device("cpu"))
        if 0 < free < needed:
            raise UserError(f"{name}: takes {needed / 2**30:.1f} GiB; {free / 2**30:.1f} GiB of memory are free")
        table = arrow.concat_tables([parquet.read_table(file, columns=[images, label]) for file in files])
    except UserError:
        raise
    except Exception as error:  # a damaged file may raise almost anything in a decoder
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{name}: cannot be read as Parquet ({reason})") from error
    if not len(table):
        raise UserError(f"{name}: holds no rows")
    if train is not None:
        if names is not None and names != train.class_names:
            raise UserError(f"{name}: its classes are not those of the training set, in the same order")
        names = train.class_names
    labels, found = _labels(table[label], label, name, names)
    column = table[images]
    if arrow.types.is_struct(column.type):
        column = optional_import("pyarrow.compute", purpose=f"the data set {name}", extra="parquet").struct_field(
            column, "bytes"
        )
    source = _BytesSource(
        column, name, channels=None if train is None else train.image_shape[0], image_size=image_size, exif=exif
    )
    return stream_data(name, source, labels, class_names=found)


def _shards(path: Path) -> list[Path]:
    """All the files that this one is a part of."""
    found = _SHARD.fullmatch(path.name)
    count = int(found[3]) if found else 1
    files = [path] if not found else [path.with_name(f"{found[1]}-{k:05d}-of-{found[3]}.parquet") for k in range(count)]
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: no such file" + (f", a shard of {path.name}" if file != path else ""))
    return files


def _columns(arrow: Any, schema: Any, name: str) -> tuple[str, str, tuple[str, ...] | None]:
    """The columns of images and labels, and the class names that the file declares."""
    declared = _declared(schema)
    images = [key for key, feature in declared.items() if feature.get("_type") == "Image"]
    labels = [key for key, feature in declared.items() if feature.get("_type") == "ClassLabel"]
    images = images or [field.name for field in schema if _holds_bytes(arrow, field.type)]
    labels += [field.name for field in schema if field.name in _LABELS]
    for found, what in ((images, "images"), (labels, "class labels, or one called label or labels")):
        if not found:
            raise UserError(f"{name}: has the columns {', '.join(schema.names)}; expected one of {what}")
    if not _holds_bytes(arrow, schema.field(images[0]).type):
        raise UserError(f"{name}: column {images[0]!r} is {schema.field(images[0]).type}; expected bytes of images")
    names = declared.get(labels[0], {}).get("names")
    return images[0], labels[0], None if not isinstance(names, list) else tuple(map(str, names))


def _declared(schema: Any) -> dict[str, dict[str, Any]]:
    """The features that `datasets` has written down, by column."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    known = features.items() if isinstance(features, dict) else ()
    return {key: feature for key, feature in known if key in schema.names and isinstance(feature, dict)}


def _holds_bytes(arrow: Any, kind: Any) -> bool:
    if arrow.types.is_struct(kind):
        return any(field.name == "bytes" and _holds_bytes(arrow, field.type) for field in kind)
    return bool(arrow.types.is_binary(kind) or arrow.types.is_large_binary(kind))


def _size(metadata: Any) -> int:
    return sum(metadata.row_group(k).total_byte_size for k in range(metadata.num_row_groups))


def _labels(column: Any, label: str, name: str, names: tuple[str, ...] | None) -> tuple[Tensor, tuple[str, ...] | None]:
    stored = column.to_pylist()
    if any(value is None or value == -1 for value in stored):
        raise UserError(f"{name}: has rows without a label; expected one for each in {label!r}")
    return read_labels(name, stored, class_names=names)
