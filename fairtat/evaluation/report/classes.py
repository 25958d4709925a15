"""Class by class: bars with intervals, differences with intervals, and the rows of the table that sorts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fairtat.evaluation.compare import Change, Comparison
from fairtat.evaluation.groups import GroupFigures, Grouping, group_figures
from fairtat.evaluation.metrics.accuracies import Accuracies
from fairtat.evaluation.report.chart import ticks
from fairtat.evaluation.report.record import RunRecord
from fairtat.text import shortened

__all__ = [
    "Bar",
    "ClassBars",
    "ClassRow",
    "DifferenceScale",
    "bars_in_order",
    "class_bars",
    "class_rows",
    "difference_scale",
    "group_rows",
]

NAME_COLUMNS = 30
"""Letters of a class's name beside its figures; the whole name shows under the pointer."""


@dataclass(frozen=True)
class Bar:
    """One run's figures on one class, in shares."""

    run: int
    clean: float
    robust: float
    low: float
    high: float
    worst: bool


@dataclass(frozen=True)
class ClassBars:
    """One class with a bar for each run; without bars it has no images. ``short`` is its name where room is scarce."""

    name: str
    short: str
    n: int
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class ClassRow:
    """One class in the table: a `Bar` for each run, and a change for each run except the first."""

    index: int
    bars: ClassBars
    changes: tuple[Change, ...]

    @property
    def gain(self) -> float:
        """For sorting: the last run's gain, largest first; a class without images comes last."""
        return -self.changes[-1].difference if self.bars.n else math.inf


@dataclass(frozen=True)
class DifferenceScale:
    """A symmetric axis of differences, in shares."""

    limit: float
    marks: tuple[float, ...]

    def at(self, difference: float) -> float:
        """Position in percent of the axis, from its left end."""
        share = 0.5 + difference / (2 * self.limit)
        return round(100 * min(max(share, 0.0), 1.0), 2)


def class_bars(records: Sequence[RunRecord]) -> list[ClassBars]:
    """Every class, the one on which the first run is worst first; classes without images come last."""
    n, accuracy = records[0].evaluation.robust.n, records[0].evaluation.robust.accuracy
    order = sorted(range(len(n)), key=lambda k: (n[k] == 0, accuracy[k] if n[k] else 0.0))
    bars = bars_in_order(records)
    return [bars[k] for k in order]


def class_rows(records: Sequence[RunRecord], comparison: Comparison | None) -> list[ClassRow]:
    """Every class in the data's own order."""
    changes = [comparison.changes(record.name) for record in records[1:]] if comparison else []
    return [ClassRow(k, bars, tuple(of_run[k] for of_run in changes)) for k, bars in enumerate(bars_in_order(records))]


def difference_scale(rows: Sequence[ClassRow]) -> DifferenceScale:
    """An axis on which every interval of every change fits."""
    ends = [abs(end) for row in rows for change in row.changes if change.n for end in change.interval]
    positive = ticks(0.0, max([0.01, *ends]), 3)
    return DifferenceScale(positive[-1], tuple(sorted({sign * mark for mark in positive for sign in (-1, 1)})))


def bars_in_order(records: Sequence[RunRecord]) -> list[ClassBars]:
    """Every class in the data's own order."""
    scored = [(record.evaluation.clean, record.evaluation.robust) for record in records]
    return _all_bars(records[0].evaluation.class_names, scored)


def group_rows(
    records: Sequence[RunRecord], grouping: Grouping, comparison: Comparison | None
) -> tuple[list[ClassRow], list[GroupFigures]]:
    """Every group of images in its order, and each run's figures under the main attack."""
    clean, robust = (
        [group_figures(record.evaluation, grouping, condition) for record in records]
        for condition in ("clean", "robust")
    )
    bars = _all_bars(grouping.names, list(zip(clean, robust, strict=True)))
    others = [record.name for record in records[1:]] if comparison else []
    rows = []
    for k, of_group in enumerate(bars):
        changes = [
            comparison.change(of_group.name, name, "robust", grouping.member == k) for name in others if comparison
        ]
        rows.append(ClassRow(k, of_group, tuple(changes)))
    return rows, robust


def _all_bars(names: Sequence[str], scored: Sequence[tuple[Accuracies, Accuracies]]) -> list[ClassBars]:
    n = scored[0][1].n
    return [
        ClassBars(name, short, n[k], tuple(_bars(scored, k)) if n[k] else ())
        for k, (name, short) in enumerate(zip(names, shortened(names, NAME_COLUMNS), strict=True))
    ]


def _bars(scored: Sequence[tuple[Accuracies, Accuracies]], k: int) -> list[Bar]:
    bars = []
    for run, (clean, robust) in enumerate(scored):
        low, high = robust.interval[k]
        assert not math.isnan(robust.accuracy[k])  # all runs are judged on the same images
        bars.append(Bar(run, clean.accuracy[k], robust.accuracy[k], low, high, worst=k == robust.worst[0]))
    return bars
