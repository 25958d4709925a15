"""Data sets by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fairtat.data.groups import AUTO, NONE, check_groups, grouped_by_file, is_group_file
from fairtat.data.image_files import Exif
from fairtat.data.sets.bundled import load_digits, load_mnist5k
from fairtat.data.sets.cifar import load_cifar10, load_cifar100
from fairtat.data.sets.folder import load_folder
from fairtat.data.sets.huggingface import load_huggingface
from fairtat.data.sets.npz import load_npz_parts, load_npz_test
from fairtat.data.sets.parquet import load_parquet
from fairtat.data.sets.tinyimagenet import load_tinyimagenet
from fairtat.data.splits import PublishedSplits, Splits, hold_out, stratified_split
from fairtat.data.stream import Data, MemorySource, Placement, Reader, StreamData, stream_data
from fairtat.data.types import ImageData, Layout
from fairtat.errors import UserError, did_you_mean
from fairtat.extension import import_code, names_code

__all__ = ["DATASETS", "code_of", "load", "load_splits", "load_test"]

Loader = Callable[[str | Path | None, bool], PublishedSplits]  # from (root, download)

DATASETS: dict[str, Loader] = {
    "digits": lambda root, download: PublishedSplits(load_digits()),
    "mnist5k": lambda root, download: PublishedSplits(load_mnist5k()),
    "cifar10": lambda root, download: load_cifar10(root, download=download),
    "cifar100": lambda root, download: load_cifar100(root, download=download),
    "tinyimagenet": lambda root, download: load_tinyimagenet(root),
}
_FETCHED = ("cifar10", "cifar100")
_NPZ, _PARQUET = ".npz", ".parquet"


def load(name: str | Path, *, image_size: int | None = None, layout: Layout = "auto", exif: Exif = "apply") -> Data:
    """A data set by name (see `load_splits`).

    For data with its own test set, this is the training set. ``image_size``, ``layout`` and
    ``exif`` are those of `load_splits`.

    Raises:
        UserError: no such data set, or its data cannot be used.
    """
    return _load_parts(_Request(str(name), image_size=image_size, layout=layout, exif=exif)).train


def load_test(name: str | Path, *, layout: Layout = "auto") -> Data | None:
    """The test set in a file, or None where it has none; of a ``.npz`` file, it may stand there alone.

    Raises:
        UserError: the file cannot be used.
    """
    return load_npz_test(name, layout=layout) if str(name).endswith(_NPZ) else None


def load_splits(
    name: str | Path,
    *,
    options: Mapping[str, Any] | None = None,
    val: float = 0.15,
    test: float = 0.2,
    seed: int = 0,
    root: str | Path | None = None,
    download: bool = False,
    image_size: int | None = None,
    layout: Layout = "auto",
    exif: Exif = "apply",
    placement: Placement = "auto",
    workers: int = 4,
    test_file: str | Path | None = None,
    groups: str = AUTO,
) -> Splits:
    """Training, validation and test sets: the same for the same arguments, on every machine.

    Published test and validation sets are kept; where one is missing, it is a share of each class of the training set.
    Images of folders and ``hf:`` sets are read later; `check_images` looks at them all.

    Args:
        name: a key of `DATASETS`, ``hf:NAME``, a folder with one subfolder of images per class, a ``.npz`` or
            ``.parquet`` file, or ``module:function`` of your own, called with the options, which returns the images
            (`image_data`, `stream_data`), all three sets (`Splits`), or those that are published (`PublishedSplits`).
        options: keyword arguments of that function.
        val: share of each class for validation; the published protocol of CIFAR-10 takes 0.02.
        test: share of each class for testing, where there is no published test set.
        seed: of the split.
        root: the folder where the files of cifar10, cifar100 and tinyimagenet lie; by default ``data``.
        download: fetch cifar10 or cifar100 into ``root`` if they are not there.
        image_size: of folders, ``hf:`` sets and ``.parquet`` files: scale all images to this square.
        layout: of ``.npz`` files: which axis holds the channels of images with four axes: ``nchw``, ``nhwc``, or
            ``auto`` for the one of axes 1 and 3 that has 1 or 3.
        exif: of the same: ``apply`` turns images as their EXIF orientation says, ``ignore`` leaves
            them as they are stored.
        placement: ``device`` keeps all images on the device as uint8; ``stream`` reads them batch by batch; ``auto``
            keeps data that are one file, and each set of folders and ``hf:`` data if it takes at most a quarter
            of the device's free memory when it is first drawn from.
        workers: processes that read images from folders and ``hf:`` sets.
        test_file: for a ``.npz`` or ``.parquet`` file: another one with the test set.
        groups: which images must stay on one side of a split: an array of the ``.npz`` file, or a ``.csv`` file (see
            `fairtat.data.groups.grouped_by_file`); ``auto`` takes those that the data come with, ``none`` none.

    Raises:
        UserError: no such data set, data that cannot be used, impossible shares, or a group on two sides of a split.
    """
    asked = _Request(str(name), options, root, download, image_size, layout, exif, test_file, groups)
    parts = _load_parts(asked).map(lambda part: _placed(part, placement, workers))
    if parts.test is None:
        splits = stratified_split(parts.train, val=val, test=test, seed=seed)
    elif parts.val is None:
        splits = Splits(*hold_out(parts.train, val=val, seed=seed), parts.test)
    else:
        splits = Splits(parts.train, parts.val, parts.test)
    check_groups(train=splits.train, val=splits.val, test=splits.test)
    return splits


def code_of(name: str) -> str | None:
    """The code outside fairtat that a data set of this name would run, in words, or None."""
    return f"data set {name} would be imported and run" if _is_code(name) else None


def _is_code(name: str) -> bool:
    files = name.startswith("hf:") or name.endswith((_NPZ, _PARQUET)) or Path(name).is_dir()
    return names_code(name) and not files


@dataclass(frozen=True)
class _Request:
    """What to read; the meanings are those of `load_splits`."""

    name: str
    options: Mapping[str, Any] | None = None
    root: str | Path | None = None
    download: bool = False
    image_size: int | None = None
    layout: Layout = "auto"
    exif: Exif = "apply"
    test_file: str | Path | None = None
    groups: str = AUTO


def _load_parts(asked: _Request) -> PublishedSplits:
    parts = _published(asked)
    if asked.groups == NONE:
        return parts.map(lambda part: replace(part, groups=None))
    if is_group_file(asked.groups):
        train, val, test = grouped_by_file(parts.train, (parts.val, parts.test), asked.groups, root=asked.name)
        assert train is not None
        return PublishedSplits(train, val, test)
    return parts


def _published(asked: _Request) -> PublishedSplits:
    name, groups = asked.name, asked.groups
    known = DATASETS.get(name)
    if asked.download and name not in _FETCHED:
        raise UserError(
            f"data.download is true for {name!r}; expected false: only {' and '.join(_FETCHED)} can be fetched"
        )
    if asked.image_size is not None and (known is not None or name.endswith(_NPZ)):
        raise UserError(
            f"data.image_size is {asked.image_size} for {name!r}; expected null: only folders, hf: sets and "
            ".parquet files are scaled"
        )
    if asked.layout != "auto" and not name.endswith(_NPZ):
        raise UserError(
            f"data.layout is {asked.layout} for {name!r}; expected auto: only .npz files come in two layouts"
        )
    if asked.test_file is not None and not name.endswith((_NPZ, _PARQUET)):
        raise UserError(
            f"data.test_file is {str(asked.test_file)!r} for {name!r}; expected null: only .npz and .parquet files "
            "have one"
        )
    if groups not in (AUTO, NONE) and not (name.endswith(_NPZ) or is_group_file(groups)):
        raise UserError(
            f"data.groups is {groups!r} for {name!r}; expected auto, none or a .csv file: only .npz files have arrays"
        )
    if asked.options and not _is_code(name):
        raise UserError(
            f"data.options is {dict(asked.options)} for {name!r}; expected none: only a module:function has any"
        )
    if known is not None:
        return known(asked.root, asked.download)
    if name.startswith("hf:"):
        return load_huggingface(name.removeprefix("hf:"), image_size=asked.image_size, exif=asked.exif)
    if name.endswith(_PARQUET):
        return load_parquet(name, test_file=asked.test_file, image_size=asked.image_size, exif=asked.exif)
    if name.endswith(_NPZ):
        arrays = NONE if is_group_file(groups) else groups
        return load_npz_parts(name, layout=asked.layout, test_file=asked.test_file, groups=arrays)
    if Path(name).is_dir():
        return load_folder(name, image_size=asked.image_size, exif=asked.exif)
    if _is_code(name):
        return _from_code(name, asked.options or {})
    valid = [*DATASETS, "FILE.npz", "FILE.parquet", "hf:NAME", "a folder of images", "module:function"]
    raise UserError(f"no data set is called {name!r}{did_you_mean(name, valid)}")


def _from_code(name: str, options: Mapping[str, Any]) -> PublishedSplits:
    function = import_code("data set", name)
    try:
        found = function(**options)
    except TypeError as error:
        raise UserError(f"data set {name!r} cannot be loaded with options {dict(options)}: {error}") from error
    if isinstance(found, PublishedSplits):
        return found
    if isinstance(found, Splits):
        return PublishedSplits(found.train, found.val, found.test)
    if isinstance(found, (ImageData, StreamData)):
        return PublishedSplits(found)
    expected = "ImageData, StreamData, Splits or PublishedSplits"
    raise UserError(f"data set {name!r} returned a {type(found).__name__}; expected {expected}")


def _placed(data: Data, placement: Placement, workers: int) -> Data:
    """The same images, kept on the device or streamed as ``placement`` says; see `load_splits`."""
    if isinstance(data, StreamData):
        return replace(data, placement=placement, reader=Reader(data.name, data.reader.source, workers))
    if placement != "stream":
        return data
    streamed = stream_data(
        data.name,
        MemorySource(data.images),
        data.labels,
        class_names=data.class_names,
        white=data.white,
        placement=placement,
        workers=workers,
    )
    return replace(streamed, ids=data.ids, groups=data.groups)
