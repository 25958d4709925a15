from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable

import pytest

from fairtat.evaluation import Comparison, Evaluation

pytest.importorskip("matplotlib")
image = pytest.importorskip("PIL.Image")

from fairtat.evaluation.report.plot import COLORS, comparison_png  # noqa: E402  # needs what the lines above look for

Make = Callable[..., Evaluation]


def comparison_of(make: Make, classes: int, runs: int, per_class: int = 4) -> Comparison:
    label = [k for k in range(classes) for _ in range(per_class)]
    robust = [k if i % per_class else (k + 1) % classes for i, k in enumerate(label)]
    names = [f"class {k}" for k in range(classes)]
    return Comparison({f"run {r}": make(label, label, robust, names=names) for r in range(runs)})


def opened(png: bytes) -> tuple[tuple[int, int], set[tuple[int, int, int]]]:
    with image.open(io.BytesIO(png)) as picture:
        assert picture.format == "PNG"
        rgb = picture.convert("RGB")
        return rgb.size, {color for _, color in rgb.getcolors(maxcolors=1 << 20)}


def rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def test_the_picture_is_a_png_of_readme_size_with_a_color_for_each_run(make_evaluation: Make) -> None:
    (width, height), colors = opened(comparison_png(comparison_of(make_evaluation, classes=10, runs=3)))
    assert width == 1350
    assert 600 < height < 800
    assert {rgb(c) for c in COLORS[:3]} <= colors
    assert rgb(COLORS[3]) not in colors


@pytest.mark.parametrize(("classes", "rows"), [(25, 1), (26, 2), (100, 4), (120, 4)])
def test_many_classes_are_laid_out_in_rows(make_evaluation: Make, classes: int, rows: int) -> None:
    (width, height), _ = opened(comparison_png(comparison_of(make_evaluation, classes, runs=2)))
    assert width == 1350
    assert height == pytest.approx(150 * (1.2 + 2 * 0.22 + 3.0 * rows), abs=2)


def test_an_absent_class_and_more_runs_than_colors_are_drawn(make_evaluation: Make) -> None:
    one = make_evaluation([0, 0, 2], [0, 0, 2], [0, 1, 2])
    runs = {f"run {k}": one for k in range(len(COLORS) + 1)}
    (width, _), _ = opened(comparison_png(Comparison(runs)))
    assert width == 1350


def test_matplotlib_is_imported_when_a_picture_is_drawn_and_not_before() -> None:
    code = "import sys, fairtat.evaluation.report.plot; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
