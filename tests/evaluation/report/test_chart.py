from __future__ import annotations

import math
import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairtat.evaluation.report.chart import LABEL_HEIGHT, Chart, Line, ticks


def chart(*lines: Line, **changes: Any) -> Chart:
    settings: dict[str, Any] = {"x_ticks": [(0, "0"), (10, "10")], "y_ticks": [(0, "0"), (1, "100")], **changes}
    return Chart("title", lines, **settings)


def test_the_ends_of_the_axes_are_the_corners_of_the_plot() -> None:
    drawing = chart()
    assert (drawing.x(0), drawing.x(10)) == (drawing.left_edge, drawing.right_edge)
    assert (drawing.y(0), drawing.y(1)) == (drawing.bottom_edge, drawing.top_edge)
    assert drawing.x(5) == pytest.approx((drawing.left_edge + drawing.right_edge) / 2)


def test_a_missing_value_interrupts_the_line_and_a_lonely_one_gets_a_dot() -> None:
    line = Line(0, [(0, 0.5), (2, None), (4, 0.5), (6, math.nan), (8, 0.5), (10, 0.6)])
    drawing = chart(line)
    assert re.sub(r"[\d. ]+", "", drawing.path(line)) == "MMML"
    assert [x for x, _ in drawing.dots(line)] == [drawing.x(0), drawing.x(4), drawing.x(10)]


def test_a_band_is_closed_and_runs_along_the_upper_edge_and_back_along_the_lower() -> None:
    line = Line(0, [(0, 0.5), (10, 0.5)], band=[(0, 0.4, 0.6), (10, 0.3, 0.7)])
    drawing = chart(line)
    numbers = [float(number) for number in re.findall(r"[\d.]+", drawing.band_path(line))]
    assert numbers[1::2] == [drawing.y(0.6), drawing.y(0.7), drawing.y(0.3), drawing.y(0.4)]
    assert drawing.band_path(line).endswith("Z")


def test_labels_of_lines_that_end_together_do_not_overlap_and_stay_inside() -> None:
    lines = [Line(run, [(0, 0.0), (10, 0.001 * run)], label=f"run {run}") for run in range(5)]
    drawing = chart(*lines)
    heights = sorted(label.y for label in drawing.labels)
    assert all(b - a >= LABEL_HEIGHT - 1e-9 for a, b in pairwise(heights))
    assert heights[-1] <= drawing.height
    assert [label.run for label in sorted(drawing.labels, key=lambda label: -label.y)] == [0, 1, 2, 3, 4]


def test_a_single_epoch_is_drawn() -> None:
    line = Line(0, [(1, 0.5)])
    drawing = chart(line, x_ticks=[(1, "1")])
    assert len(drawing.dots(line)) == 1


@given(st.floats(-1e3, 1e3), st.floats(0, 1e3), st.integers(2, 8))
def test_ticks_enclose_the_values_at_even_round_steps(low: float, span: float, count: int) -> None:
    marks = ticks(low, low + span, count)
    steps = [b - a for a, b in pairwise(marks)]
    assert marks[0] <= low + 1e-6 * max(1, abs(low))
    assert marks[-1] >= low + span - 1e-6 * max(1, abs(low + span))
    assert 1 <= len(steps) <= count + 2
    assert steps == pytest.approx([steps[0]] * len(steps), rel=1e-3)


def test_ticks_known_by_hand() -> None:
    assert ticks(0.0, 1.0, 4) == [0.0, 0.5, 1.0]
    assert ticks(0.13, 0.61, 4) == [0.0, 0.2, 0.4, 0.6, 0.8]
    assert ticks(0.5, 0.5, 4)[0] <= 0.5 <= ticks(0.5, 0.5, 4)[-1]
