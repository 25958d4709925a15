"""How far apart the classes are: a dot for each class on one axis of robust accuracy, a strip for each run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fairtat.evaluation.report.record import RunRecord
from fairtat.text import shortened

__all__ = ["Spread", "spreads"]

WIDTH = 380.0
LEFT, RIGHT = 8.0, 16.0
STACK = 40.0
"""Height of the dots; where many classes have one accuracy they stand closer."""
DOT = 6.0
BIN = 0.015
"""Share of the axis that a dot takes: classes nearer to each other are stacked."""
NAME_COLUMNS = 26


@dataclass(frozen=True)
class Spread:
    """One run's strip; positions are in units of the drawing, accuracies are shares."""

    run: int
    dots: tuple[tuple[float, float], ...]
    worst: float
    interval: tuple[float, float]
    worst_name: str
    worst_short: str
    average: float
    best: float

    @property
    def path(self) -> str:
        """All dots as one SVG path of points, which round line ends make visible."""
        return "".join(f"M{x:g} {y:g}h0" for x, y in self.dots)

    @staticmethod
    def x(share: float) -> float:
        """Position on the axis of accuracy."""
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def spreads(records: Sequence[RunRecord]) -> list[Spread]:
    """The strips of all runs; classes without images have no dot."""
    names = records[0].evaluation.class_names
    short = shortened(names, NAME_COLUMNS)
    found = []
    for run, record in enumerate(records):
        robust = record.evaluation.robust
        shares = sorted(share for share, n in zip(robust.accuracy, robust.n, strict=True) if n)
        worst, value = robust.worst
        strip = Spread(
            run=run,
            dots=_stacked(shares),
            worst=value,
            interval=robust.interval[worst],
            worst_name=names[worst],
            worst_short=short[worst],
            average=robust.average,
            best=shares[-1],
        )
        found.append(strip)
    return found


def _stacked(shares: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """(x, y) of each dot, y counted down from the top of the strip."""
    bins = [round(share / BIN) for share in shares]
    step = min(DOT, (STACK - DOT) / max(1, max(Counter(bins).values()) - 1))
    height: Counter[int] = Counter()
    dots = []
    for place, share in zip(bins, shares, strict=True):
        dots.append((Spread.x(share), round(STACK - DOT / 2 - step * height[place], 1)))
        height[place] += 1
    return tuple(dots)
