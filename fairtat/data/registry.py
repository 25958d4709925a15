"""Data sets by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fairtat.data.digits import load_digits
from fairtat.data.mnist5k import load_mnist5k
from fairtat.data.npz import load_npz
from fairtat.data.splits import stratified_split
from fairtat.data.types import ImageData, Splits
from fairtat.errors import UserError, did_you_mean

__all__ = ["DATASETS", "load", "load_splits"]

DATASETS: dict[str, Callable[[], ImageData]] = {"digits": load_digits, "mnist5k": load_mnist5k}


def load(name: str | Path) -> ImageData:
    """A data set by name (see `DATASETS`), or from a ``.npz`` file by its path.

    Raises:
        UserError: no such data set, or its data cannot be used.
    """
    if str(name).endswith(".npz"):
        return load_npz(name)
    loader = DATASETS.get(str(name))
    if loader is None:
        raise UserError(f"no data set is called {str(name)!r}{did_you_mean(str(name), [*DATASETS, 'FILE.npz'])}")
    return loader()


def load_splits(name: str | Path, *, val: float = 0.15, test: float = 0.2, seed: int = 0) -> Splits:
    """`load` and `stratified_split`: the same three parts for the same arguments, on every machine.

    Raises:
        UserError: as `load` and `stratified_split`.
    """
    return stratified_split(load(name), val=val, test=test, seed=seed)
