"""The picture of a study's classes shows what its results file says, with an image of each class below its bar."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from fairtat.errors import UserError
from fairtat.study import Results
from tests.study.test_contrasts import LABELS, made

pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")

SCRIPT = Path(__file__).parents[2] / "examples" / "fairness_study" / "class_picture.py"
SHARES = {"clean": [0.9, 0.8, 0.7, 0.95], "robust": [0.5, 0.2, 0.6, 0.3]}


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return made(tmp_path, lambda arm, factor, seed, condition: SHARES.get(condition, 0.5), seeds=3)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for k, name in enumerate("abcd"):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        for shade in (5, 120, 250):
            pixels = np.full((9, 9, 3), shade, np.uint8)
            pixels[::2, :, k % 3] ^= 60
            Image.fromarray(pixels).save(folder / f"{shade}.png")
    return tmp_path / "images"


def test_accuracies_are_those_of_the_results_file(results: Results) -> None:
    script = runpy.run_path(str(SCRIPT))
    found = script["accuracies"](results, "at", 2.0, "robust")
    assert found.shape == (3, 4)
    for row, entry in zip(found, [e for e in results.entries() if (e.arm, e.factor) == ("at", 2.0)], strict=True):
        for k in range(4):
            assert row[k] == pytest.approx(100 * entry.correct["robust"][k == LABELS].mean())
    with pytest.raises(UserError, match=r"holds no model of arm 'at' at factor 7"):
        script["accuracies"](results, "at", 7.0, "robust")


def test_the_image_of_a_class_is_neither_dark_nor_pale(images: Path) -> None:
    clearest = runpy.run_path(str(SCRIPT))["_clearest"]
    assert clearest(images / "a").name == "120.png"
    (images / "none").mkdir()
    with pytest.raises(UserError, match="holds no image"):
        clearest(images / "none")


def test_the_script_writes_the_same_picture_twice(
    results: Results, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one.png", "two.png"):
        words = [str(results.study.path), str(images), str(tmp_path / name), "--results", str(results.path)]
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *words])
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    width, height = Image.open(tmp_path / "one.png").size
    assert width > 3 * height
