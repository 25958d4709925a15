"""Line charts as coordinates; the template turns them into SVG, whose colors follow the reader's scheme."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Chart", "Label", "Line", "Tick", "ticks"]

MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 30.0, 10.0, 10.0, 22.0
LABEL_HEIGHT = 12.0
"""Least distance of two labels at the ends of lines, in the units of the drawing (about a pixel on screen)."""


@dataclass(frozen=True)
class Line:
    """One run's values: (x, y) with y None where there is none; ``band`` holds (x, low, high)."""

    run: int
    points: Sequence[tuple[float, float | None]]
    band: Sequence[tuple[float, float, float]] = ()
    label: str = ""


class Tick(NamedTuple):
    """A mark of an axis, at a coordinate of the drawing."""

    at: float
    text: str


@dataclass(frozen=True)
class Label:
    """Text at the end of a line."""

    run: int
    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A small chart of lines over a common x; everything else is derived for the template."""

    title: str
    lines: Sequence[Line]
    x_ticks: Sequence[tuple[float, str]]
    y_ticks: Sequence[tuple[float, str]]
    x_label: str = ""
    mark: float | None = None
    width: float = 320.0
    height: float = 190.0
    note: str = ""
    right: float = field(default=MARGIN_RIGHT)

    @property
    def left_edge(self) -> float:
        return MARGIN_LEFT

    @property
    def right_edge(self) -> float:
        return self.width - self.right

    @property
    def top_edge(self) -> float:
        return MARGIN_TOP

    @property
    def bottom_edge(self) -> float:
        return self.height - MARGIN_BOTTOM - (LABEL_HEIGHT if self.x_label else 0)

    def x(self, value: float) -> float:
        """Coordinate of a value on the horizontal axis."""
        low, high = self.x_ticks[0][0], self.x_ticks[-1][0]
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.left_edge + share * (self.right_edge - self.left_edge), 1)

    def y(self, value: float) -> float:
        """Coordinate of a value on the vertical axis."""
        low, high = self.y_ticks[0][0], self.y_ticks[-1][0]
        share = (value - low) / (high - low) if high > low else 0.5
        return round(self.bottom_edge - share * (self.bottom_edge - self.top_edge), 1)

    @property
    def columns(self) -> list[Tick]:
        """Where the horizontal axis is marked."""
        return [Tick(self.x(value), text) for value, text in self.x_ticks]

    @property
    def rows(self) -> list[Tick]:
        """Where the vertical axis is marked."""
        return [Tick(self.y(value), text) for value, text in self.y_ticks]

    def path(self, line: Line) -> str:
        """The line as an SVG path, interrupted where a value is missing."""
        commands, pen_down = [], False
        for x, y in line.points:
            if y is None or math.isnan(y):
                pen_down = False
                continue
            commands.append(f"{'L' if pen_down else 'M'}{self.x(x):g} {self.y(y):g}")
            pen_down = True
        return "".join(commands)

    def band_path(self, line: Line) -> str:
        """The band as a closed SVG path."""
        upper = [f"{self.x(x):g} {self.y(high):g}" for x, _, high in line.band]
        lower = [f"{self.x(x):g} {self.y(low):g}" for x, low, _ in reversed(line.band)]
        return f"M{'L'.join([*upper, *lower])}Z" if line.band else ""

    def dots(self, line: Line) -> list[tuple[float, float]]:
        """The last point of the line; also a point between two gaps, which would be invisible without a dot."""
        known = [y is not None and not math.isnan(y) for _, y in line.points]
        last = max((i for i, there in enumerate(known) if there), default=-1)
        found = []
        for i, (x, y) in enumerate(line.points):
            alone = not (i and known[i - 1]) and not (i + 1 < len(known) and known[i + 1])
            if y is not None and known[i] and (alone or i == last):
                found.append((self.x(x), self.y(y)))
        return found

    @property
    def labels(self) -> list[Label]:
        """Labels at the lines' ends, moved apart where they would overlap, each near its line."""
        ends = [(self.dots(line)[-1], line) for line in self.lines if line.label and self.dots(line)]
        placed: list[Label] = []
        for (x, y), line in sorted(ends, key=lambda end: end[0][1]):
            free = placed[-1].y + LABEL_HEIGHT if placed else -math.inf
            placed.append(Label(line.run, x + 6, max(y + 4, free), line.label))
        overflow = placed[-1].y - (self.height - 4) if placed else 0.0
        return [Label(p.run, p.x, p.y - max(0.0, overflow), p.text) for p in placed]


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers that enclose ``low`` to ``high``, about ``count`` steps apart by 1, 2 or 5 times a power of ten."""
    span = high - low or abs(high) or 1.0
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, max(last, first + 1) + 1)]
