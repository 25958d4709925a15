"""Heat maps in a dozen shades, which are CSS classes, so that they follow the reader's light or dark scheme."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fairtat.evaluation.attacks.settings import radius
from fairtat.evaluation.metrics.figures import ClassFigures
from fairtat.evaluation.report.order import confusion_shares
from fairtat.evaluation.report.record import RunRecord
from fairtat.evaluation.text.wording import MISSING
from fairtat.text import shortened

__all__ = [
    "SHADES",
    "Cell",
    "HeatMap",
    "Mosaic",
    "Strip",
    "confusion_map",
    "corruption_map",
    "difference_map",
    "radius_strip",
    "target_strip",
    "targeted_map",
]

SHADES = 12
"""Shades from nothing to the full color; differences have as many in each direction."""

NUMBERED = 16
"""Up to this many classes a map has a number in every cell; larger ones are mosaics with a list of the main pairs."""

NAMED = 64
"""Up to this many classes a mosaic has names at its left."""

PAIRS = 12
STRIP_ROWS = 24
STRIP_COLUMNS = 60
NAME_COLUMNS = 18
STRIP_NAME_COLUMNS = 11


@dataclass(frozen=True)
class Cell:
    """``shade`` is a CSS class: "" for nothing, s1..s12, or g1..g12 and l1..l12 for gains and losses.

    ``known`` is False where there is nothing to say, of a class without images.
    """

    text: str
    shade: str
    diagonal: bool = False
    known: bool = True


@dataclass(frozen=True)
class Mosaic:
    """Cells of one unit each, as one SVG path per shade."""

    width: int
    height: int
    paths: dict[str, str]

    @property
    def named(self) -> bool:
        """Whether there is room for a name at each row."""
        return self.height <= NAMED


@dataclass(frozen=True)
class HeatMap:
    """A class-by-class matrix: numbers in a table for few classes, else a mosaic; and its most prominent pairs.

    ``scale`` holds what the strongest shades of either direction mean, of a map that has its own scale; ``figures``
    what a mosaic's cells say: a ";" between rows, of which each has "column:text" for its cells, except zeros.
    """

    title: str
    names: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[Cell, ...], ...]
    mosaic: Mosaic | None
    pairs: tuple[tuple[str, str, str], ...]
    row_header: str = "true class"
    column_header: str = "predicted"
    scale: tuple[str, str] | None = None
    figures: str = ""
    unit: str = "%"

    @property
    def short_names(self) -> list[str]:
        """The names of the rows, as far as there is room."""
        return shortened(self.names, NAME_COLUMNS)

    @property
    def short_columns(self) -> list[str]:
        """Those of the columns."""
        return shortened(self.columns, NAME_COLUMNS)


@dataclass(frozen=True)
class Strip:
    """Classes over epochs: one row per class, one column per epoch (or several, averaged)."""

    run: int
    title: str
    names: tuple[str, ...]
    mosaic: Mosaic
    low: str
    high: str
    last_epoch: int
    left_out: int

    @property
    def short_names(self) -> list[str]:
        """The names, as far as there is room."""
        return shortened(self.names, STRIP_NAME_COLUMNS)


def confusion_map(
    title: str, figures: ClassFigures, names: Sequence[str], order: Sequence[int] | None = None
) -> HeatMap:
    """Where the images of each class go, in percent of the class; rows and columns in ``order``, or the data's."""
    return _matrix(title, confusion_shares(figures), names, _of_all, _percent, order)


def difference_map(
    title: str, before: ClassFigures, after: ClassFigures, names: Sequence[str], order: Sequence[int] | None = None
) -> HeatMap:
    """What another run changed, in points. More on the diagonal is a gain, more beside it is a loss."""
    change = confusion_shares(after) - confusion_shares(before)
    limit = float(np.nanmax(np.abs(change)))

    def shade(value: float, own: bool) -> str:
        return _shade(abs(value), limit or 1.0, "g" if (value > 0) == own else "l")

    found = replace(_matrix(title, change, names, shade, _signed, order), unit=" points")
    reach = f"{100 * limit:.1f} points"
    return replace(found, scale=(f"{reach} worse", f"{reach} better")) if limit else found


def targeted_map(record: RunRecord, order: Sequence[int] | None = None) -> HeatMap | None:
    """The share of each class that an attack turns into each other class; None without a targeted sweep."""
    sweep = record.evaluation.targeted
    if sweep is None:
        return None
    names = record.evaluation.class_names
    return _matrix(record.name, sweep.rate.numpy(), names, _of_all, _percent, order, column_header="turned into")


def corruption_map(record: RunRecord) -> HeatMap | None:
    """Accuracy under each corruption and severity; None without corruptions."""
    errors = record.evaluation.corruption_errors()
    if not errors:
        return None
    severities = sorted({severity for of_one in errors.values() for severity in of_one})
    cells = []
    for of_one in errors.values():
        accuracies = [1 - of_one[severity] if severity in of_one else math.nan for severity in severities]
        cells.append(tuple(_cell(value, _of_all, _percent) for value in accuracies))
    return HeatMap(
        title=record.name,
        names=tuple(name.replace("_", " ") for name in errors),
        columns=tuple(map(str, severities)),
        cells=tuple(cells),
        mosaic=None,
        pairs=(),
        row_header="corruption",
        column_header="severity",
    )


def radius_strip(run: int, record: RunRecord) -> Strip | None:
    """The attack radius of each class over the epochs, in the unit of the run's eps; None when all radii are equal."""
    found = [(epoch, values) for epoch, values in record.series("class_eps") if _row_of_numbers(values)]
    if not found:
        return None
    matrix = np.array([values for _, values in found], dtype=float)
    if _eps(record).endswith("/255"):
        return _strip(run, record, 255 * matrix, int(found[-1][0]), "{:.3g}/255")
    return _strip(run, record, matrix, int(found[-1][0]), "{:.3g}")


def _eps(record: RunRecord) -> str:
    """The radius that the run was trained with, as its configuration writes it; if unknown, the evaluation's."""
    attack = (record.config or {}).get("attack")
    known = attack.get("eps") if isinstance(attack, Mapping) else None
    return radius(record.evaluation.attack.eps) if known is None else str(known)


def target_strip(run: int, record: RunRecord) -> Strip | None:
    """How often each class is aimed at, over the epochs; None when no class is preferred, or attacks are untargeted."""
    rows = []
    for epoch, values in record.series("target_weight"):
        weight = np.array(values, dtype=float)
        if weight.ndim == 2:  # by label and target: over all labels alike
            weight = np.nanmean(weight, axis=0)
        if weight.ndim == 1 and weight.size:
            rows.append((epoch, weight))
    if not rows:
        return None
    return _strip(run, record, 100 * np.stack([weight for _, weight in rows]), int(rows[-1][0]), "{:.1f}%")


def _matrix(
    title: str,
    values: np.ndarray,
    names: Sequence[str],
    shade: Callable[[float, bool], str],
    text: Callable[[float], str],
    order: Sequence[int] | None = None,
    column_header: str = "predicted",
) -> HeatMap:
    """From (C, C) with NaN where there is nothing to say; ``shade`` is also told whether a value is on the diagonal."""
    if order is not None:
        values, names = values[np.ix_(order, order)], [names[k] for k in order]
    cells = tuple(
        tuple(_cell(value, shade, text, own=y == k) for k, value in enumerate(row))
        for y, row in enumerate(values.tolist())
    )
    beside = [(abs(v), y, k) for (y, k), v in np.ndenumerate(values) if y != k and v and not math.isnan(v)]
    largest = sorted(beside, key=lambda found: -found[0])[:PAIRS]
    few = len(names) <= NUMBERED
    return HeatMap(
        title=title,
        names=tuple(names),
        columns=tuple(names),
        cells=cells if few else (),
        mosaic=None if few else _mosaic([[cell.shade for cell in row] for row in cells]),
        pairs=tuple((names[y], names[k], text(float(values[y, k]))) for _, y, k in largest),
        column_header=column_header,
        figures="" if few else ";".join(map(_row_text, cells)),
    )


def _row_text(cells: Sequence[Cell]) -> str:
    """The cells of a row that are not zero, a dash where there is nothing to say."""
    said = ((k, cell.text if cell.known else MISSING) for k, cell in enumerate(cells))
    return ",".join(f"{k}:{text}" for k, text in said if text)


def _strip(run: int, record: RunRecord, matrix: np.ndarray, last_epoch: int, form: str) -> Strip | None:
    """From (epochs, C); None when nothing in it varies."""
    low, high = float(np.nanmin(matrix)), float(np.nanmax(matrix))
    if high - low <= 1e-6 * max(abs(high), 1e-12):
        return None
    names = record.evaluation.class_names
    varied = np.argsort(-np.nan_to_num(np.nanmax(matrix, axis=0) - np.nanmin(matrix, axis=0)), kind="stable")
    shown = sorted(varied[:STRIP_ROWS].tolist())
    columns = [part.mean(axis=0) for part in np.array_split(matrix, min(STRIP_COLUMNS, len(matrix)))]
    shades = [[_shade(column[k] - low, high - low, "s", least=1) for column in columns] for k in shown]
    return Strip(
        run=run,
        title=record.name,
        names=tuple(names[k] for k in shown),
        mosaic=_mosaic(shades),
        low=form.format(low),
        high=form.format(high),
        last_epoch=last_epoch,
        left_out=len(names) - len(shown),
    )


def _mosaic(shades: Sequence[Sequence[str]]) -> Mosaic:
    """Neighbors of one shade in a row become one rectangle, which keeps maps of 100 classes small."""
    paths: dict[str, list[str]] = {}
    for y, row in enumerate(shades):
        start = 0
        for x in range(1, len(row) + 1):
            if x == len(row) or row[x] != row[start]:
                if row[start]:
                    paths.setdefault(row[start], []).append(f"M{start} {y}h{x - start}v1h-{x - start}z")
                start = x
    return Mosaic(len(shades[0]), len(shades), {shade: "".join(paths[shade]) for shade in sorted(paths)})


def _shade(value: float, full: float, kind: str, least: int = 0) -> str:
    if math.isnan(value):
        return ""
    level = max(least, min(SHADES, math.ceil(SHADES * value / full - 1e-9)))
    return f"{kind}{level}" if level > 0 else ""


def _of_all(value: float, own: bool) -> str:
    return _shade(value, 1.0, "s")


def _cell(value: float, shade: Callable[[float, bool], str], text: Callable[[float], str], own: bool = False) -> Cell:
    """A zero is left empty: what is there stands out."""
    if math.isnan(value):
        return Cell("", "", own, known=False)
    written = text(value)
    return Cell("" if written == "0" else written, shade(value, own), own)


def _percent(value: float) -> str:
    return f"{100 * value:.0f}"


def _signed(value: float) -> str:
    return f"{100 * value:+.0f}".replace("-", "\N{MINUS SIGN}") if round(100 * value) else "0"


def _row_of_numbers(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(value, (int, float)) for value in values)
