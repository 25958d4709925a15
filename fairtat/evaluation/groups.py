"""Figures of groups of images other than the classes: superclasses, domains, degrees of difficulty."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fairtat.data.sets.superclasses import CIFAR100_SUPERCLASSES
from fairtat.errors import UserError, did_you_mean
from fairtat.evaluation.metrics.accuracies import Accuracies
from fairtat.evaluation.result import Evaluation
from fairtat.evaluation.samples import Samples
from fairtat.files import read_csv
from fairtat.text import printable

__all__ = ["BUILT_IN", "GROUPS_HELP", "GroupFigures", "Grouping", "group_figures", "grouping_dict", "read_groups"]

BUILT_IN = {"cifar100-superclasses": CIFAR100_SUPERCLASSES}
"""Groupings that are known by name: class to group."""

GROUPS_HELP = (
    "other groups of images with the same figures: a .csv file with a column for each way to divide them (superclass, "
    "domain, difficulty, ...) and a row for each image, in the order of evaluation or with their ids in a column id; "
    "or a row for each class, named in a column class; or " + ", ".join(BUILT_IN)
)

BY_CLASS, BY_ID = "class", "id"
"""Columns that say what a row of a file is about; without them a row is an image."""


@dataclass(frozen=True, eq=False)
class Grouping:
    """A way to divide the images.

    Attributes:
        title: what it divides by, such as "superclass".
        names: of the G groups.
        member: (N,) int64, each image's group in the order of evaluation; -1 for an image of none.
    """

    title: str
    names: tuple[str, ...]
    member: np.ndarray = field(repr=False)


@dataclass(frozen=True)
class GroupFigures(Accuracies):
    """Accuracy of each group under one condition: ``right`` of ``images``; images of no group are left out."""

    images: Sequence[int]
    right: Sequence[int]

    @property
    def n(self) -> Sequence[int]:
        return self.images

    @property
    def correct(self) -> Sequence[int]:
        return self.right


def group_figures(evaluation: Evaluation, grouping: Grouping, condition: str) -> GroupFigures:
    """The figures of a grouping under a condition ("robust": the main attack)."""
    correct = _samples(evaluation).correct(condition)
    inside = grouping.member >= 0
    count = len(grouping.names)
    return GroupFigures(
        np.bincount(grouping.member[inside], minlength=count).tolist(),
        np.bincount(grouping.member[inside & correct], minlength=count).tolist(),
    )


def grouping_dict(evaluation: Evaluation, grouping: Grouping) -> dict[str, Any]:
    """A grouping's figures on clean images and under the main attack as plain JSON values."""
    found: dict[str, Any] = {"title": grouping.title, "names": list(grouping.names)}
    for condition in ("clean", "robust"):
        figures = group_figures(evaluation, grouping, condition)
        found[condition] = {**figures.summary(grouping.names), "groups": figures.rows(grouping.names)}
    return found


def read_groups(source: str, class_names: Sequence[str], labels: np.ndarray, ids: np.ndarray) -> list[Grouping]:
    """The groupings that ``source`` gives the images of an evaluation: the name of a known one, or a .csv file.

    Each column of the file is a grouping, its head the title; an empty cell leaves the image out. A row stands for an
    image: the one whose sample id is in the column ``id``, or else in the order of evaluation. With a column ``class``
    a row stands for all images of the class of that name.

    Args:
        labels, ids: (N,) label and sample id of each image, in the order of evaluation.

    Raises:
        UserError: an unknown name, a file that cannot be read or lacks rows or columns, or classes that the named
            grouping does not know.
    """
    if source in BUILT_IN:
        title = source.partition("-")[2].removesuffix("es")
        return [_grouping(source, title, _by_class(source, BUILT_IN[source], class_names)[labels].tolist())]
    if not source.lower().endswith(".csv"):
        raise UserError(
            f"--groups is {source!r}; expected a .csv file or {', '.join(BUILT_IN)}{did_you_mean(source, BUILT_IN)}"
        )
    columns, rows = read_csv(Path(source))
    titles = [column for column in columns if column not in (BY_CLASS, BY_ID)]
    if not titles:
        raise UserError(f"{source}: has no column with groups, only {', '.join(columns)}")
    found = []
    for title in titles:
        values = [row[title].strip() for row in rows]
        if BY_CLASS in columns:
            of_class = dict(zip((printable(row[BY_CLASS].strip()) for row in rows), values, strict=True))
            cells = _by_class(source, of_class, class_names)[labels].tolist()
        elif BY_ID in columns:
            cells = _by_id(source, [row[BY_ID] for row in rows], values, ids)
        elif len(rows) != len(labels):
            raise UserError(
                f"{source}: has {len(rows)} rows; expected {len(labels)}, one for each image, or a column "
                f"{BY_ID} with sample ids, or {BY_CLASS} with names of classes"
            )
        else:
            cells = values
        found.append(_grouping(source, title, cells))
    return found


def _grouping(source: str, title: str, cells: Sequence[str]) -> Grouping:
    names = [name for name in dict.fromkeys(cells) if name]
    if not names:
        raise UserError(f"{source}: the column {title} is empty; expected the name of a group for some image")
    place = {name: k for k, name in enumerate(sorted(names, key=_natural))}
    member = np.array([place.get(cell, -1) for cell in cells], dtype=np.int64)
    return Grouping(printable(title), tuple(map(printable, place)), member)


def _natural(name: str) -> tuple[int, float, str]:
    """Numbers by their value, before names."""
    try:
        return 0, float(name), name
    except ValueError:
        return 1, 0.0, name


def _by_class(source: str, group_of: Mapping[str, str], class_names: Sequence[str]) -> np.ndarray:
    missing = [name for name in class_names if name not in group_of]
    if missing:
        raise UserError(f"{source}: has no group for class {missing[0]!r}; expected one for each of the classes")
    return np.array([group_of[name] for name in class_names])


def _by_id(source: str, given: Sequence[str], values: Sequence[str], ids: np.ndarray) -> list[str]:
    try:
        group_of = {int(text): value for text, value in zip(given, values, strict=True)}
    except ValueError as error:
        raise UserError(f"{source}: a sample id is not a whole number ({error})") from error
    missing = [number for number in ids.tolist() if number not in group_of]
    if missing:
        raise UserError(f"{source}: has no row for the image with id {missing[0]}; expected one for each image")
    return [group_of[number] for number in ids.tolist()]


def _samples(evaluation: Evaluation) -> Samples:
    if evaluation.samples is None:
        raise UserError("groups need the per-sample outcomes (the .npz file) of the evaluation")
    return evaluation.samples
