# ruff: noqa: RUF001 - the page's own minus signs and dashes
from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from fairtat.evaluation import ClassFigures
from fairtat.evaluation.report import RunRecord, heat

Record = Callable[..., RunRecord]

CONFUSION = torch.tensor([[6, 2, 0], [0, 0, 0], [1, 0, 3]])
NAMES = ("cat", "dog", "ship")


def texts(found: heat.HeatMap) -> list[list[str]]:
    return [[cell.text for cell in row] for row in found.cells]


def painted(mosaic: heat.Mosaic) -> np.ndarray:
    """The mosaic read back from its paths: a shade or "" for every unit square; no square is painted twice."""
    cells = np.full((mosaic.height, mosaic.width), "", dtype=object)
    for shade, path in mosaic.paths.items():
        for x, y, length in re.findall(r"M(\d+) (\d+)h(\d+)v1h-\3z", path):
            part = cells[int(y), int(x) : int(x) + int(length)]
            assert (part == "").all()
            part[:] = shade
    return cells


def test_a_confusion_map_is_in_percent_of_the_row_and_leaves_zeros_and_absent_classes_empty() -> None:
    found = heat.confusion_map("title", ClassFigures(CONFUSION), NAMES)
    assert texts(found) == [["75", "25", ""], ["", "", ""], ["25", "", "75"]]
    assert [cell.shade for cell in found.cells[0]] == ["s9", "s3", ""]
    assert [[cell.diagonal for cell in row] for row in found.cells] == np.eye(3, dtype=bool).tolist()
    assert found.pairs == (("cat", "dog", "25"), ("ship", "cat", "25"))


def test_a_difference_is_good_on_the_diagonal_when_it_grows_and_beside_it_when_it_falls() -> None:
    after = torch.tensor([[8, 0, 0], [0, 0, 0], [2, 0, 2]])
    found = heat.difference_map("title", ClassFigures(CONFUSION), ClassFigures(after), NAMES)
    assert texts(found) == [["+25", "−25", ""], ["", "", ""], ["+25", "", "−25"]]
    assert [[cell.shade for cell in row] for row in found.cells] == [
        ["g12", "g12", ""],
        ["", "", ""],
        ["l12", "", "l12"],
    ]
    assert found.scale == ("25.0 points worse", "25.0 points better")


def test_equal_runs_have_an_empty_difference() -> None:
    figures = ClassFigures(CONFUSION)
    found = heat.difference_map("title", figures, figures, NAMES)
    assert {cell.shade for row in found.cells for cell in row} == {""}
    assert found.scale is None


def test_a_map_of_many_classes_is_a_mosaic_of_the_same_shades() -> None:
    random = np.random.default_rng(0)
    confusion = torch.from_numpy(random.integers(0, 5, (40, 40)) * (random.random((40, 40)) < 0.2))
    confusion += torch.eye(40, dtype=torch.int64)
    found = heat.confusion_map("title", ClassFigures(confusion), [str(k) for k in range(40)])
    assert found.mosaic is not None
    assert found.cells == ()
    share = confusion.double() / confusion.sum(1, keepdim=True)
    expected = [[f"s{int(np.ceil(12 * v - 1e-9))}" if v else "" for v in row] for row in share.tolist()]
    assert painted(found.mosaic).tolist() == expected
    assert len(found.pairs) == heat.PAIRS


def test_strips_follow_the_history_from_the_lowest_shade_to_the_highest(record: Record) -> None:
    found = heat.radius_strip(0, record(epochs=3))
    assert found is not None
    assert (found.low, found.high, found.last_epoch) == ("8/255", "12.8/255", 3)
    cells = painted(found.mosaic)
    assert cells.shape == (4, 3)
    assert (cells[:, 0] == "s1").all()
    assert cells[3, 2] == "s12"


def test_radii_are_in_the_unit_in_which_the_run_writes_its_own(record: Record) -> None:
    history = [{"epoch": 1, "class_eps": [0.25, 0.5]}, {"epoch": 2, "class_eps": [0.5, 1.0]}]
    run = replace(record(classes=2), history=history, config={"attack": {"eps": "0.5", "norm": "l2"}})
    found = heat.radius_strip(0, run)
    assert found is not None
    assert (found.low, found.high) == ("0.25", "1")
    # Without a configuration, that of the evaluation: 8/255.
    found = heat.radius_strip(0, replace(run, config=None))
    assert found is not None
    assert (found.low, found.high) == ("63.8/255", "255/255")


def test_targets_by_label_are_averaged_over_the_labels(record: Record) -> None:
    weights = [[[0.0, 1.0], [0.5, 0.5]], [[0.0, 1.0], [1.0, 0.0]]]
    history = [{"epoch": e + 1, "target_weight": weight} for e, weight in enumerate(weights)]
    found = heat.target_strip(0, replace(record(classes=2), history=history))
    assert found is not None
    assert (found.low, found.high) == ("25.0%", "75.0%")


def test_long_trainings_and_many_classes_are_condensed(record: Record) -> None:
    found = heat.radius_strip(0, record(classes=100, per_class=1, epochs=200))
    assert found is not None
    assert (found.mosaic.width, found.mosaic.height) == (heat.STRIP_COLUMNS, heat.STRIP_ROWS)
    assert found.left_out == 100 - heat.STRIP_ROWS
    assert found.names[-1] == "kind 99"


def test_what_never_varies_or_was_not_recorded_has_no_strip(record: Record) -> None:
    constant = [{"epoch": 1, "class_eps": [0.1, 0.1], "target_weight": None}]
    run = replace(record(classes=2), history=constant)
    assert heat.radius_strip(0, run) is None
    assert heat.target_strip(0, run) is None
    assert heat.radius_strip(0, replace(run, history=())) is None


def test_targeted_and_corruption_maps_are_there_when_they_were_asked_for(record: Record) -> None:
    plain, rich = record(), record(extras=True)
    assert heat.targeted_map(plain) is None
    assert heat.corruption_map(plain) is None
    sweep = rich.evaluation.targeted
    targeted, corrupted = heat.targeted_map(rich), heat.corruption_map(rich)
    assert sweep is not None
    assert targeted is not None
    assert corrupted is not None
    assert targeted.cells[0][1].text == f"{100 * int(sweep.reached[0, 1]) / 20:.0f}"
    assert targeted.cells[0][0].text == ""
    assert (corrupted.names, corrupted.columns) == (("gaussian noise",), ("1", "3"))
    error = rich.evaluation.corruption_errors()["gaussian_noise"][3]
    assert corrupted.cells[0][1].text == f"{100 * (1 - error):.0f}"


def test_an_order_moves_rows_and_columns_together_and_keeps_names_with_their_figures() -> None:
    random = np.random.default_rng(1)
    confusion = torch.from_numpy(random.integers(0, 5, (20, 20))) + 9 * torch.eye(20, dtype=torch.int64)
    confusion[7] = 0  # a class without images
    names = [f"name {k}" for k in range(20)]
    order = random.permutation(20).tolist()
    found = heat.confusion_map("title", ClassFigures(confusion), names, order)
    assert found.names == found.columns == tuple(names[k] for k in order)
    rows = [dict(cell.split(":") for cell in row.split(",") if cell) for row in found.figures.split(";")]
    for at, label in enumerate(order):
        for column, predicted in enumerate(order):
            said = rows[at].get(str(column), "0")
            if label == 7:
                assert said == "–"
            else:
                assert said == f"{100 * int(confusion[label, predicted]) / int(confusion[label].sum()):.0f}"
