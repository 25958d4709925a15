"""Groups of images that belong together: frames of one video, photographs of one person, crops of one scan.

Images of one group resemble each other more than those of two, so a validation or test accuracy is too high where a
group lies on both sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fairtat.data.image_files import FileSource
from fairtat.data.labels import read_groups
from fairtat.data.stream import Data, StreamData
from fairtat.errors import UserError
from fairtat.files import read_csv

__all__ = ["AUTO", "NONE", "check_groups", "divide_groups", "grouped_by_file", "is_group_file", "one_each"]

AUTO, NONE = "auto", "none"
"""Values of ``data.groups`` beside the name of an array, a column or a .csv file."""


def divide_groups(data: Data, shares: Mapping[str, float], seed: int) -> list[Tensor]:
    """Rows of ``data`` for each share, and the rest: every group in one of them, each class in proportion.

    As iterative stratification does: classes in the order of how few groups they have; of each, the groups in an order
    drawn from (seed, class), each to the part that lacks the largest share of that class's samples. So a part has at
    least one group of each class where no group holds two classes, and at most one more than its share.

    Source: Sechidis, Tsoumakas and Vlahavas, "On the Stratification of Multi-label Data", ECML PKDD 2011.

    Raises:
        UserError: a class with fewer groups than parts, or of which a part gets none.
    """
    assert data.groups is not None
    labels, count = data.labels.cpu().numpy(), data.num_classes
    found, group = np.unique(data.groups.numpy(), return_inverse=True)
    held = np.bincount(group * count + labels, minlength=len(found) * count).reshape(len(found), count)  # (G, C)
    groups_of = (held > 0).sum(axis=0)
    for label in np.flatnonzero(groups_of <= len(shares)).tolist():
        raise UserError(
            f"{_class(data, label)} has {(labels == label).sum()} samples in {groups_of[label]} groups; expected "
            f"at least {one_each(shares)}"
        )
    samples = held.sum(axis=0)
    kept = np.maximum(1, np.outer(list(shares.values()), samples))
    wanted = np.vstack([kept, np.maximum(1, samples - kept.sum(axis=0))])  # (parts, C)
    lacking, part_of = wanted.astype(float), np.full(len(found), -1)
    for label in np.argsort(groups_of, kind="stable"):
        waiting = np.flatnonzero((held[:, label] > 0) & (part_of < 0))
        generator = torch.Generator().manual_seed((seed * 1_000_003 + int(label)) % 2**63)
        for one in waiting[torch.randperm(len(waiting), generator=generator).numpy()]:
            need = lacking / wanted
            overall = need @ held[one] / held[one].sum()
            part = max(range(len(wanted)), key=lambda k: (need[k, label], overall[k], -k))
            part_of[one] = part
            lacking[part] -= held[one]
    _check_all_classes(data, lacking >= wanted, [*shares, "train"])
    return [torch.from_numpy(np.flatnonzero(part_of[group] == part)) for part in range(len(wanted))]


def one_each(shares: Mapping[str, float]) -> str:
    """What each class needs: a sample, or a group, for every part."""
    parts = "train and validate" if len(shares) == 1 else "train, validate and test"
    return f"{len(shares) + 1}, one each to {parts}"


def check_groups(**parts: Data | None) -> None:
    """Refuse sets of which two hold images of one group: accuracies on one would tell of what the other has shown.

    Args:
        parts: by their names; those without groups, and missing ones, are not compared.

    Raises:
        UserError: two sets hold images of one group; the message names the sets and an image of each.
    """
    known = {name: part.groups.numpy() for name, part in parts.items() if part is not None and part.groups is not None}
    names = list(known)
    for number, first in enumerate(names):
        for second in names[number + 1 :]:
            both = np.intersect1d(known[first], known[second])
            if len(both):
                rows = [int(np.flatnonzero(known[name] == both[0])[0]) for name in (first, second)]
                part = parts[first]
                assert part is not None
                raise UserError(
                    f"{part.name}: {len(both)} groups have images in both {first} and {second} (such as image "
                    f"{rows[0]} of {first} and image {rows[1]} of {second}); expected each group in one of them"
                )


def is_group_file(name: str) -> bool:
    """Whether ``data.groups`` names a file, rather than an array or a column of the data."""
    return name.lower().endswith(".csv")


def grouped_by_file(train: Data, others: Sequence[Data | None], file: str, root: str) -> list[Data | None]:
    """The same sets with the groups that a .csv file gives the images.

    The file has a column ``group``, and one row for each image: either with a column ``file`` too, its path below
    ``root``, or in the order of the training images, and then the other sets get no groups.

    Raises:
        UserError: the file is missing, has no such column, or leaves images without a group.
    """
    rows = _read_rows(Path(file))
    if rows and "file" in rows[0]:
        group_of = {str(Path(row["file"])): row["group"] for row in rows}
        numbers: dict[str, str | int] = dict(zip(group_of, _numbers(list(group_of.values())), strict=True))
        return [None if part is None else _by_path(part, numbers, file, Path(root)) for part in (train, *others)]
    if len(rows) != len(train):
        raise UserError(
            f"{file}: has {len(rows)} rows; expected {len(train)}, one for each training image of {train.name}, or a "
            "column file with their paths"
        )
    values = _numbers([row["group"] for row in rows])
    return [replace(train, groups=read_groups(file, values, len(train))), *others]


def _class(data: Data, label: int) -> str:
    return f"{data.name}: class {label} ({data.class_names[label]!r})"


def _check_all_classes(data: Data, without: np.ndarray, names: Sequence[str]) -> None:
    for part, label in np.argwhere(without):
        raise UserError(
            f"{_class(data, label)} has no group left for {names[part]}: its groups hold other classes too; expected "
            "more groups, larger shares, another data.seed, or data.groups none"
        )


def _read_rows(file: Path) -> list[dict[str, str]]:
    columns, rows = read_csv(file)
    if "group" not in columns:
        raise UserError(f"{file}: has the columns {', '.join(columns)}; expected group among them")
    return rows


def _by_path(data: Data, group_of: Mapping[str, str | int], file: str, root: Path) -> Data:
    source = data.reader.source if isinstance(data, StreamData) else None
    if not isinstance(source, FileSource):
        raise UserError(f"{file}: has a column file, but {data.name} is not a folder of images; expected group alone")
    assert isinstance(data, StreamData)
    paths = [str(Path(source.name(row)).relative_to(root)) for row in data.rows.tolist()]
    missing = next((path for path in paths if path not in group_of), None)
    if missing is not None:
        raise UserError(f"{file}: has no row for {missing}; expected one for each image")
    return replace(data, groups=read_groups(file, [group_of[path] for path in paths], len(data)))


def _numbers(values: Sequence[str]) -> Sequence[str] | Sequence[int]:
    """Whole numbers where all are: a file then means the same groups as an array of numbers."""
    try:
        return [int(value) for value in values]
    except ValueError:
        return values
