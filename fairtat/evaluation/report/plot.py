"""The class-wise picture of a comparison."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import numpy as np

from fairtat.evaluation.compare import Comparison
from fairtat.evaluation.metrics.figures import ClassFigures
from fairtat.text import printable, shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, in an order whose neighbours also differ in lightness (print, colour blindness).
COLOURS = ("#999999", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
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
    Needs matplotlib (``pip install 'fairtat[eval]'``); draws without a display and touches no global state of it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = _shown(comparison)
    rows = math.ceil(len(shown) / CLASSES_IN_ROW)
    per_row = math.ceil(len(shown) / rows)
    height = 1.2 + 0.22 * len(comparison.names) + ROW_HEIGHT * rows
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_title(comparison, len(shown)), x=0.01, ha="left", fontsize=10.5)
    for row, axes in enumerate(figure.subplots(rows, 1, squeeze=False)[:, 0]):
        _draw_row(axes, comparison, shown[row * per_row : (row + 1) * per_row], per_row)
    figure.axes[-1].set_xlabel("class")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower left", frameon=False)

    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def _shown(comparison: Comparison) -> list[int]:
    present = [k for k, n in enumerate(comparison.baseline.robust.n) if n]
    lowest = {k: min(e.robust.accuracy[k] for e in comparison.evaluations.values()) for k in present}
    return sorted(sorted(present, key=lowest.__getitem__)[:MAX_CLASSES])


def _title(comparison: Comparison, shown: int) -> str:
    present = sum(n > 0 for n in comparison.baseline.robust.n)
    scope = "each class" if shown == present else f"the {shown} worst of {present} classes"
    return (
        f"Robust accuracy of {scope}\n"
        f"{comparison.attack}; {comparison.baseline.clean.total} images; whiskers: 95% intervals"
    )


def _draw_row(axes: Axes, comparison: Comparison, classes: list[int], slots: int) -> None:
    runs = len(comparison.names)
    bar = 0.8 / runs
    for run, (name, evaluation) in enumerate(comparison.evaluations.items()):
        at = np.arange(len(classes)) + (run - (runs - 1) / 2) * bar
        _draw_bars(axes, evaluation.robust, classes, at, bar, COLOURS[run % len(COLOURS)], _label(comparison, name))

    names = shortened([comparison.class_names[k] for k in classes], NAME_COLUMNS)
    # About 0.085 inches a character of the tick labels: slanted where neighbours would touch.
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


def _draw_bars(
    axes: Axes,
    figures: ClassFigures,
    classes: list[int],
    at: np.ndarray,
    width: float,
    colour: str,
    label: str,
) -> None:
    height = 100 * np.array([figures.accuracy[k] for k in classes])
    interval = 100 * np.array([figures.interval[k] for k in classes])
    axes.bar(at, height, 0.94 * width, color=colour, label=label)
    axes.errorbar(
        at,
        height,
        yerr=np.abs(interval.T - height),
        fmt="none",
        ecolor=INK,
        elinewidth=1,
        capsize=min(3.0, 8 * width),
    )
    worst = figures.worst[0]
    if worst in classes:
        k = classes.index(worst)
        axes.bar(at[k], height[k], 0.94 * width, color="none", edgecolor=INK, linewidth=1.6)
        axes.annotate(
            "\u25bc",
            (at[k], interval[k, 1]),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            color=INK,
            fontsize=9,
        )


def _label(comparison: Comparison, name: str) -> str:
    robust = comparison.evaluations[name].robust
    worst, value = robust.worst
    (class_name,) = shortened([comparison.class_names[worst]], LEGEND_COLUMNS)
    return f"{printable(name)}: average {robust.average:.1%}; worst class \u25bc {class_name}, {value:.1%}"
