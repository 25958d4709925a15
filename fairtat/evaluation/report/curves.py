"""Accuracy against the radius, and training over the epochs, as charts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from fairtat.evaluation.attacks.settings import AttackSettings, radius
from fairtat.evaluation.metrics.figures import ClassFigures
from fairtat.evaluation.metrics.intervals import wilson
from fairtat.evaluation.report.chart import Chart, Line, ticks
from fairtat.evaluation.report.record import RunRecord

__all__ = ["radius_charts", "training_charts"]

PERCENT_TICKS = tuple((value / 100, str(value)) for value in (0, 25, 50, 75, 100))
SMALL = {"width": 190.0, "height": 132.0}
LABELLED_RUNS = 7
"""Of more runs, the lines' ends are too crowded for labels; the legend names them."""


def radius_charts(records: Sequence[RunRecord]) -> list[Chart]:
    """All images first, then each class, the first run's worst one first; empty when no run has a sweep."""
    swept = [(run, _swept(record)) for run, record in enumerate(records)]
    swept = [(run, points) for run, points in swept if len(points) > 1]
    if not swept:
        return []
    first = records[swept[0][0]].evaluation
    radii = sorted({eps for _, points in swept for eps, _ in points})
    x_ticks = _thinned([(eps, radius(eps) if eps else "0") for eps in radii])
    common: dict[str, Any] = {
        "x_ticks": x_ticks,
        "y_ticks": PERCENT_TICKS,
        "mark": first.attack.eps if radii[0] < first.attack.eps < radii[-1] else None,
        **SMALL,
    }
    worst_first = sorted((k for k, n in enumerate(first.clean.n) if n), key=lambda k: first.robust.accuracy[k])
    charts = [Chart("all images", [_radius_line(run, points, None) for run, points in swept], **common)]
    for k in worst_first:
        charts.append(Chart(first.class_names[k], [_radius_line(run, points, k) for run, points in swept], **common))
    return charts


def training_charts(records: Sequence[RunRecord]) -> list[Chart]:
    """Validation accuracy of the weights that are kept, and robust accuracy while training; empty without histories."""
    wanted = [
        ("clean accuracy", "average", ("val_clean", "average"), ("averaged", "clean", "average")),
        ("robust accuracy", "average", ("val_robust", "average"), ("averaged", "robust", "average")),
        ("robust accuracy", "worst class", ("val_robust", "worst"), ("averaged", "robust", "worst")),
        ("robust accuracy", "in training", ("train_robust", "average"), ()),
    ]
    last = max((record.history[-1]["epoch"] for record in records if record.history), default=0)
    if not last:
        return []
    charts = []
    for title, note, usual, averaged in wanted:
        lines = []
        for run, record in enumerate(records):
            # Averaged weights are what the run is evaluated with, so they are what its curve is about.
            points = (averaged and record.series(*averaged)) or record.series(*usual)
            label = record.name if 1 < len(records) <= LABELLED_RUNS else ""
            lines.append(Line(run, points, label=_shortened(label)))
        lines = [line for line in lines if line.points]
        if lines:
            room = 10.0 + 5.8 * max((len(line.label) for line in lines), default=0)
            charts.append(
                Chart(
                    title,
                    lines,
                    x_ticks=_epochs(last),
                    y_ticks=_zoomed(lines),
                    x_label="epoch",
                    note=note,
                    right=room,
                    width=270.0,
                    height=176.0,
                )
            )
    return charts


def _swept(record: RunRecord) -> list[tuple[float, ClassFigures]]:
    """(eps, figures) from 0 up."""
    points = [(0.0, record.evaluation.clean)]
    for condition in record.evaluation.of_kind("sweep"):
        assert isinstance(condition.settings, AttackSettings)
        points.append((condition.settings.eps, condition.figures))
    return sorted(points, key=lambda point: point[0])


def _radius_line(run: int, points: Sequence[tuple[float, ClassFigures]], k: int | None) -> Line:
    counts = [
        (eps, sum(figures.correct), figures.total) if k is None else (eps, figures.correct[k], figures.n[k])
        for eps, figures in points
    ]
    return Line(
        run,
        [(eps, right / n) for eps, right, n in counts],
        band=[(eps, *wilson(right, n)) for eps, right, n in counts],
    )


def _thinned(marks: list[tuple[float, str]]) -> list[tuple[float, str]]:
    """Both ends keep their text, the marks between them as far as there is room for it."""
    span, end = marks[-1][0] - marks[0][0], marks[-1][1]
    thinned, free_from = [], -math.inf
    for value, text in marks:
        at, half = (value - marks[0][0]) / span, _share(text) / 2
        fits = at - half >= free_from and at + half <= 1 - _share(end)
        is_end = value in (marks[0][0], marks[-1][0])
        thinned.append((value, text if fits or is_end else ""))
        if fits or is_end:
            free_from = at + half
    return thinned


def _share(text: str) -> float:
    """About how much of a small chart's axis a text takes, with a space beside it."""
    return (6.0 * len(text) + 6.0) / (SMALL["width"] - 40.0)


def _epochs(last: int) -> list[tuple[float, str]]:
    if last <= 4:
        return [(float(epoch), str(epoch)) for epoch in range(1, last + 1)]
    marks = [mark for mark in ticks(0, last, 4) if 1 < mark < last]
    # A mark too close to the last one would overlap it.
    kept = [mark for mark in marks if last - mark > 0.12 * last and mark == int(mark)]
    return [(1.0, "1"), *((mark, f"{mark:g}") for mark in kept), (float(last), str(last))]


def _zoomed(lines: Sequence[Line]) -> list[tuple[float, str]]:
    values = [y for line in lines for _, y in line.points if y is not None and not math.isnan(y)]
    marks = ticks(min(values, default=0.0), min(1.0, max(values, default=1.0)), 4)
    return [(mark, f"{100 * mark:g}") for mark in marks]


def _shortened(name: str, most: int = 14) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}\N{HORIZONTAL ELLIPSIS}"
