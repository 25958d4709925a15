"""Labels as they lie in files, and the names of their classes."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairtat.errors import UserError
from fairtat.text import printable

__all__ = ["FROM_ONE", "clean_class_names", "name_classes", "read_groups", "read_labels"]

_LOG = logging.getLogger("fairtat")

FROM_ONE = "do the labels start at 1? Then subtract 1 from each"
_MOST_NUMBERED = 100_000  # classes that are given by their numbers alone: a label such as 10**9 is a mistake
_LARGEST_EXACT = 2**53  # up to here every whole number is a float64


def read_labels(
    name: str, labels: Any, *, class_names: Iterable[str] | None = None
) -> tuple[Tensor, tuple[str, ...] | None]:
    """Labels (N,) int64, and the class names: those given, or those that labels of text hold.

    Args:
        name: what errors call this data.
        labels: (N,) or (N, 1): integers, whole-number floats, bools, or text. Text is looked up in ``class_names``;
            without them, its values are the names, in alphabetical order, or by their value if all are decimal numbers.
        class_names: one name per class, as the labels spell it.

    Raises:
        UserError: another shape or kind, or text that is not among the names.
    """
    array = _plain_array(labels)
    names = None if class_names is None else tuple(class_names)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise UserError(f"{name}: labels have shape {array.shape}; expected (N,), one per image")
    if array.dtype.kind == "U":
        return _from_text(name, array, names)
    if array.dtype.kind == "f":
        array = array.astype(np.float64)
        whole = (np.abs(array) < _LARGEST_EXACT) & (array == np.rint(array))  # false for NaN
        if not whole.all():
            first = int(np.flatnonzero(~whole)[0])
            raise UserError(f"{name}: labels hold {array[first]} (sample {first}); expected whole numbers, or text")
    elif array.dtype.kind not in "biu":
        raise UserError(f"{name}: labels have dtype {array.dtype}; expected whole numbers, or text")
    return torch.from_numpy(array.astype(np.int64)), names


def read_groups(name: str, groups: Any, samples: int) -> Tensor:
    """(N,) int64, the same number for the same group in every file: the number that is stored, or one from its text.

    Raises:
        UserError: not one whole number or text for each of the ``samples`` images.
    """
    array = _plain_array(groups)
    if array.shape != (samples,):
        raise UserError(f"{name}: groups have shape {array.shape}; expected ({samples},), one per image")
    if array.dtype.kind == "U":
        found, position = np.unique(array, return_inverse=True)
        digests = [hashlib.blake2b(str(value).encode(), digest_size=8).digest() for value in found]
        numbers = np.array([int.from_bytes(digest, "little", signed=True) for digest in digests], np.int64)
        return torch.from_numpy(numbers[position])
    if array.dtype.kind not in "biu":
        raise UserError(f"{name}: groups have dtype {array.dtype}; expected whole numbers, or text")
    return torch.from_numpy(array.astype(np.int64))


def name_classes(name: str, labels: Tensor, class_names: tuple[str, ...] | None) -> tuple[str, ...]:
    """One clean name per class (see `clean_class_names`), the numbers if there are none; the labels are in their range.

    Raises:
        UserError: labels outside, or fewer than two classes.
    """
    low, high = int(labels.min()), int(labels.max())
    num_classes = high + 1 if class_names is None else len(class_names)
    outside = (labels < 0) | (labels >= num_classes)
    if bool(outside.any()):
        first = int(outside.nonzero()[0])
        wanted = "0 or more" if class_names is None else f"0 to {num_classes - 1} ({num_classes} class names)"
        hint = f"; {FROM_ONE}" if low == 1 and high == num_classes else ""
        raise UserError(
            f"{name}: labels lie in [{low}, {high}]; expected {wanted} (the first outside is sample {first}){hint}"
        )
    if num_classes < 2:
        raise UserError(f"{name}: labels hold {num_classes} class; expected at least 2")
    if class_names is not None:
        return clean_class_names(class_names)
    if num_classes > _MOST_NUMBERED:
        raise UserError(
            f"{name}: labels reach {high}; expected class numbers below {_MOST_NUMBERED}, or class_names, one per class"
        )
    if low == 1:
        _LOG.warning("notice: %s: labels lie in [1, %d], so class 0 has no images; %s", name, high, FROM_ONE)
    return tuple(str(k) for k in range(num_classes))


def clean_class_names(names: Iterable[str]) -> tuple[str, ...]:
    """Names that a terminal and a page can show: without control characters, none empty, no two the same.

    A name of which nothing is left becomes the class's number. Names that are the same get their numbers appended: a
    published set cannot be renamed by those who load it, and what is computed depends on the number alone.
    """
    clean = [printable(name).strip() or str(k) for k, name in enumerate(names)]
    while len(set(clean)) < len(clean):  # "a (1)" may itself be a name
        count = Counter(clean)
        clean = [f"{name} ({k})" if count[name] > 1 else name for k, name in enumerate(clean)]
    return tuple(clean)


def _plain_array(labels: Any) -> Any:
    """As a numpy array, in which text is of kind U."""
    if isinstance(labels, Tensor):
        return (labels.double() if labels.is_floating_point() else labels).cpu().numpy()
    array = np.asarray(labels)
    if array.dtype.kind == "S":
        return np.char.decode(array, "utf-8", "replace")
    if array.dtype.kind in "OT" and all(isinstance(value, str) for value in array.flat):
        return array.astype(str)
    return array


def _from_text(name: str, array: Any, names: tuple[str, ...] | None) -> tuple[Tensor, tuple[str, ...]]:
    found, position = np.unique(array, return_inverse=True)
    values = [str(value) for value in found]
    if names is None:
        numbers = all(value.isascii() and value.isdecimal() for value in values)
        names = tuple(sorted(values, key=lambda value: (int(value), value)) if numbers else values)
    number_of = {value: k for k, value in enumerate(names)}
    for value in values:
        if value not in number_of:
            raise UserError(f"{name}: labels hold {value!r}, which is not among the {len(names)} class names")
    numbers_of_values = torch.tensor([number_of[value] for value in values])
    return numbers_of_values[torch.from_numpy(position)], names
