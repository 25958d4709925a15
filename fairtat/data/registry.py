"""Data sets by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fairtat.data.cifar import load_cifar10, load_cifar100
from fairtat.data.digits import load_digits
from fairtat.data.folder import load_folder
from fairtat.data.huggingface import load_huggingface
from fairtat.data.image_files import Exif
from fairtat.data.mnist5k import load_mnist5k
from fairtat.data.npz import load_npz
from fairtat.data.splits import Parts, Splits, hold_out, stratified_split
from fairtat.data.stream import Data, MemorySource, Placement, Reader, StreamData, stream_data
from fairtat.data.tinyimagenet import load_tinyimagenet
from fairtat.data.types import Layout
from fairtat.errors import UserError, did_you_mean

__all__ = ["DATASETS", "load", "load_splits"]


Loader = Callable[[str | Path | None, bool], Parts]  # from (root, download)

DATASETS: dict[str, Loader] = {
    "digits": lambda root, download: Parts(load_digits()),
    "mnist5k": lambda root, download: Parts(load_mnist5k()),
    "cifar10": lambda root, download: load_cifar10(root, download=download),
    "cifar100": lambda root, download: load_cifar100(root, download=download),
    "tinyimagenet": lambda root, download: load_tinyimagenet(root),
}
_FETCHED = ("cifar10", "cifar100")


def load(name: str | Path, *, image_size: int | None = None, layout: Layout = "auto", exif: Exif = "apply") -> Data:
    """A data set by name (see `DATASETS`), or from a ``.npz`` file or a folder of images by its path.

    Of a set that comes with a test part of its own, this is the part to train on. ``image_size``, ``layout`` and
    ``exif`` are those of `load_splits`.

    Raises:
        UserError: no such data set, or its data cannot be used.
    """
    return _load_parts(str(name), image_size=image_size, layout=layout, exif=exif).train


def load_splits(
    name: str | Path,
    *,
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
) -> Splits:
    """Train, validation and test parts: the same for the same arguments, on every machine.

    A set's own test part stays the test part, its own validation part the validation part; what it lacks is a share of
    each class of its train part. Images of folders and ``hf:`` sets are read later; `check_images` looks at them all.

    Args:
        name: a key of `DATASETS`, ``hf:NAME``, a folder with one subfolder of images a class, or a ``.npz`` file.
        val: share of each class for validation; the published protocol of CIFAR-10 takes 0.02.
        test: share of each class for testing, where the set has no test part of its own.
        seed: of the shares.
        root: the folder where the files of cifar10, cifar100 and tinyimagenet lie; by default ``data``.
        download: fetch cifar10 or cifar100 into ``root`` if they are not there.
        image_size: of folders and ``hf:`` sets: scale all images to this square.
        layout: of ``.npz`` files: which axis holds the channels of images with four axes: ``nchw``, ``nhwc``, or
            ``auto`` for the one of axes 1 and 3 that has 1 or 3.
        exif: of folders and ``hf:`` sets: ``apply`` turns images as their EXIF orientation says, ``ignore`` leaves
            them as they are stored.
        placement: ``device`` keeps all images on the device as uint8; ``stream`` reads them batch by batch; ``auto``
            keeps sets that are one file, and folders and ``hf:`` sets part by part if they take at most a quarter
            of the device's free memory when they are first drawn from.
        workers: processes that read images from folders and ``hf:`` sets.

    Raises:
        UserError: no such data set, data that cannot be used, or impossible shares.
    """
    parts = _load_parts(str(name), root=root, download=download, image_size=image_size, layout=layout, exif=exif)
    parts = parts.map(lambda part: _placed(part, placement, workers))
    if parts.test is None:
        return stratified_split(parts.train, val=val, test=test, seed=seed)
    if parts.val is None:
        train_part, val_part = hold_out(parts.train, val=val, seed=seed)
        return Splits(train_part, val_part, parts.test)
    return Splits(parts.train, parts.val, parts.test)


def _load_parts(
    name: str,
    *,
    root: str | Path | None = None,
    download: bool = False,
    image_size: int | None = None,
    layout: Layout = "auto",
    exif: Exif = "apply",
) -> Parts:
    known = DATASETS.get(name)
    if download and name not in _FETCHED:
        raise UserError(
            f"data.download is true for {name!r}; expected false: only {' and '.join(_FETCHED)} can be fetched"
        )
    if image_size is not None and (known is not None or name.endswith(".npz")):
        raise UserError(
            f"data.image_size is {image_size} for {name!r}; expected null: only folders and hf: sets are scaled"
        )
    if layout != "auto" and not name.endswith(".npz"):
        raise UserError(f"data.layout is {layout} for {name!r}; expected auto: only .npz files come in two layouts")
    if known is not None:
        return known(root, download)
    if name.startswith("hf:"):
        return load_huggingface(name.removeprefix("hf:"), image_size=image_size, exif=exif)
    if name.endswith(".npz"):
        return Parts(load_npz(name, layout=layout))
    if Path(name).is_dir():
        return load_folder(name, image_size=image_size, exif=exif)
    valid = [*DATASETS, "FILE.npz", "hf:NAME", "a folder of images"]
    raise UserError(f"no data set is called {name!r}{did_you_mean(name, valid)}")


def _placed(data: Data, placement: Placement, workers: int) -> Data:
    """The same images, kept or read as ``placement`` says; see `load_splits`."""
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
    return replace(streamed, ids=data.ids)
