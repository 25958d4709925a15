"""The bars of every class as a PNG file, for notebooks and READMEs, which cannot show a page.

What is drawn is what the page's bars show (`fairtat.evaluation.report.classes`).
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fairtat.evaluation.compare import Comparison
from fairtat.evaluation.report.classes import Bar, ClassBars, bars_in_order
from fairtat.evaluation.report.record import RunRecord
from fairtat.text import printable, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, in an order whose neighbors also differ in lightness (print, color blindness).
COLORS = ("#999999", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
INK = "#222222"
DPI = 150
WIDTH = 9.0  # inches; 1350 pixels, what a README shows without scaling it up
ROW_HEIGHT = 3.0  # inches
CLASSES_IN_ROW = 25
MAX_CLASSES = 100
NAME_COLUMNS = 22  # of a class below its bars
LEGEND_COLUMNS = 40  # of one in the legend


def comparison_png(comparison: Comparison) -> bytes:
    """Bars of robust accuracy for every class and run, whiskers = Wilson 95% intervals, as a PNG file.

    Many classes are laid out in rows; above 100 classes the picture keeps the 100 on which some run is worst.
    Needs matplotlib (``pip install 'fairtat[eval]'``); draws without a display and without global state.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = [RunRecord(name, evaluation) for name, evaluation in comparison.evaluations.items()]
    present = [of_class for of_class in bars_in_order(records) if of_class.bars]
    shown = _lowest(present)
    rows = math.ceil(len(shown) / CLASSES_IN_ROW)
    per_row = math.ceil(len(shown) / rows)
    height = 1.2 + 0.22 * len(records) + ROW_HEIGHT * rows
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    scope = "each class" if len(shown) == len(present) else f"the {len(shown)} worst of {len(present)} classes"
    title = (
        f"Robust accuracy of {scope}\n"
        f"{comparison.attack}; {comparison.baseline.clean.total} images; whiskers: 95% intervals"
    )
    figure.suptitle(title, x=0.01, ha="left", fontsize=10.5)
    labels = [_label(record) for record in records]
    for row, axes in enumerate(figure.subplots(rows, 1, squeeze=False)[:, 0]):
        _draw_row(axes, shown[row * per_row : (row + 1) * per_row], labels, per_row)
    figure.axes[-1].set_xlabel("class")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower left", frameon=False)

    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _lowest(classes: Sequence[ClassBars]) -> list[ClassBars]:
    """At most `MAX_CLASSES`, those on which some run is worst, in their order."""
    lowest = sorted(range(len(classes)), key=lambda k: min(bar.robust for bar in classes[k].bars))
    return [classes[k] for k in sorted(lowest[:MAX_CLASSES])]


def _draw_row(axes: Axes, classes: Sequence[ClassBars], labels: Sequence[str], slots: int) -> None:
    width = 0.8 / len(labels)
    for run, label in enumerate(labels):
        at = [k + (run - (len(labels) - 1) / 2) * width for k in range(len(classes))]
        _draw_bars(axes, [of_class.bars[run] for of_class in classes], at, width, COLORS[run % len(COLORS)], label)

    names = shortened([of_class.name for of_class in classes], NAME_COLUMNS)
    # About 0.085 inches per character of the tick labels: slanted where neighbors would touch.
    slanted = max(len(name) for name in names) * 0.085 > 0.9 * WIDTH / slots
    axes.set_xticks(
        range(len(names)),
        names,
        rotation=40 if slanted else 0,
        ha="right" if slanted else "center",
        rotation_mode="anchor",
    )
    axes.set_xlim(-0.6, slots - 0.4)
    axes.set_ylim(0, 109)  # room above 100 for the mark of a worst class
    axes.set_yticks(range(0, 101, 20))
    axes.set_ylabel("robust accuracy, %")
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _draw_bars(axes: Axes, bars: Sequence[Bar], at: Sequence[float], width: float, color: str, label: str) -> None:
    height = [100 * bar.robust for bar in bars]
    below = [100 * (bar.robust - bar.low) for bar in bars]
    above = [100 * (bar.high - bar.robust) for bar in bars]
    axes.bar(at, height, 0.94 * width, color=color, label=label)
    axes.errorbar(at, height, yerr=[below, above], fmt="none", ecolor=INK, elinewidth=1, capsize=min(3.0, 8 * width))
    for x, bar in zip(at, bars, strict=True):
        if bar.worst:
            axes.bar(x, 100 * bar.robust, 0.94 * width, color="none", edgecolor=INK, linewidth=1.6)
            axes.annotate(
                "\u25bc",
                (x, 100 * bar.high),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                color=INK,
                fontsize=9,
            )


def _label(record: RunRecord) -> str:
    robust = record.evaluation.robust
    worst, value = robust.worst
    (class_name,) = shortened([record.evaluation.class_names[worst]], LEGEND_COLUMNS)
    return f"{printable(record.name)}: average {robust.average:.1%}; worst class \u25bc {class_name}, {value:.1%}"
