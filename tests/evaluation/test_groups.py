"""Groups of images other than the classes, from files and by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fairtat.data.sets.superclasses import CIFAR100_SUPERCLASSES
from fairtat.errors import UserError
from fairtat.evaluation import Evaluation
from fairtat.evaluation.groups import group_figures, grouping_dict, read_groups
from fairtat.evaluation.metrics.lowest import lowest_accuracy
from fairtat.evaluation.text.table import as_text, groups_table

Make = Callable[..., Evaluation]

LABEL = np.array([0, 0, 0, 0, 1, 1, 2])
IDS = np.arange(100, 107)
NAMES = ("cat", "dog", "ship")
CLEAN = [0, 0, 0, 1, 1, 1, 2]
ROBUST = [0, 0, 1, 1, 1, 0, 0]

# CIFAR-100's coarse labels of the fine labels 0 to 99, in the alphabetical order of both, as the data set has them.
COARSE = (
    "4 1 14 8 0 6 7 7 18 3 3 14 9 18 7 11 3 9 7 11 6 11 5 10 7 6 13 15 3 15 0 11 1 10 "
    "12 14 16 9 11 5 5 19 8 8 15 13 14 17 18 10 16 4 17 4 2 0 17 4 18 17 10 3 2 12 12 16 12 1 "
    "9 19 2 10 0 1 16 12 9 13 15 13 16 19 2 4 6 19 5 5 8 19 18 1 2 15 6 0 17 8 14 13"
)


def read(path: Path, text: str) -> list[tuple[str, tuple[str, ...], list[int]]]:
    path.write_text(text, encoding="utf-8")
    return [(each.title, each.names, each.member.tolist()) for each in read_groups(str(path), NAMES, LABEL, IDS)]


def test_a_row_for_each_image_and_a_column_for_each_grouping(tmp_path: Path) -> None:
    text = "domain,difficulty\nday,10\nnight,9\nday,10\n,2\nnight,2\nnight,9\nday,10\n"
    assert read(tmp_path / "g.csv", text) == [
        ("domain", ("day", "night"), [0, 1, 0, -1, 1, 1, 0]),
        ("difficulty", ("2", "9", "10"), [2, 1, 2, 0, 0, 1, 2]),  # numbers by their value
    ]


def test_ids_put_rows_in_the_order_of_evaluation(tmp_path: Path) -> None:
    groups = dict(zip(range(100, 107), "aabbabb", strict=True))
    shuffled = np.random.default_rng(0).permutation(list(groups))
    text = "id,g\n" + "".join(f"{k},{groups[int(k)]}\n" for k in shuffled) + "999,c\n"
    assert read(tmp_path / "g.csv", text) == [("g", ("a", "b"), [0, 0, 1, 1, 0, 1, 1])]


def test_a_row_for_each_class_stands_for_its_images(tmp_path: Path) -> None:
    text = "\ufeffclass,kind\nship,thing\ndog,animal\ncat,animal\n"
    assert read(tmp_path / "g.csv", text) == [("kind", ("animal", "thing"), [0, 0, 0, 0, 0, 0, 1])]


def test_cifar100s_superclasses_are_those_of_the_data_set() -> None:
    fine, coarse = sorted(CIFAR100_SUPERCLASSES), sorted(set(CIFAR100_SUPERCLASSES.values()))
    assert [coarse.index(CIFAR100_SUPERCLASSES[name]) for name in fine] == [int(k) for k in COARSE.split()]
    label = np.random.default_rng(1).integers(0, 100, 500)
    (found,) = read_groups("cifar100-superclasses", fine, label, np.arange(500))
    assert found.title == "superclass"
    assert [found.names[k] for k in found.member] == [CIFAR100_SUPERCLASSES[fine[k]] for k in label]


def test_figures_of_groups_are_counted_and_images_of_none_left_out(make_evaluation: Make, tmp_path: Path) -> None:
    evaluation = make_evaluation(LABEL.tolist(), CLEAN, ROBUST)
    (tmp_path / "g.csv").write_text('domain\nday\nnight\nday\n""\nnight\nnight\nday\n')
    (grouping,) = read_groups(str(tmp_path / "g.csv"), NAMES, LABEL, IDS)
    clean, robust = (group_figures(evaluation, grouping, condition) for condition in ("clean", "robust"))
    assert (clean.n, clean.correct) == ([3, 3], [3, 3])
    assert (robust.n, robust.correct) == ([3, 3], [1, 2])
    assert robust.worst == (0, pytest.approx(1 / 3))
    assert robust.lowest == lowest_accuracy([1, 2], [3, 3])
    values = grouping_dict(evaluation, grouping)
    assert values["robust"]["worst"]["name"] == "day"
    assert [row["correct"] for row in values["robust"]["groups"]] == [1, 2]
    text = " ".join(as_text([groups_table(evaluation, grouping)], 100).split())
    assert "by domain; 6 images, 1 more are of no group" in text
    assert "*33.3" in text
    assert "worst group" in text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("g\na\nb\n", r"has 2 rows; expected 7, one for each image, or a column id with sample ids, or class"),
        ("id,g\n100,a\n", "has no row for the image with id 101"),
        ("id,g\nx,a\n", "a sample id is not a whole number"),
        ("class,g\ncat,a\n", "has no group for class 'dog'"),
        ("id\n100\n", "has no column with groups, only id"),
        ("g,g\n" + "a,b\n" * 7, "has the columns g, g; expected different names"),
        ("g\n" + "a,b\n" * 7, "a row has more cells than the first line has columns"),
        ("", "has the columns none"),
        ("g,h\n" + ",x\n" * 7, "the column g is empty"),
    ],
)
def test_a_file_that_does_not_fit_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=rf"g\.csv: .*{message}"):
        read(tmp_path / "g.csv", text)


def test_an_unknown_name_and_a_missing_file_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--groups is 'cifar100-superclases'; .*did you mean"):
        read_groups("cifar100-superclases", NAMES, LABEL, IDS)
    with pytest.raises(UserError, match="no such file"):
        read_groups(str(tmp_path / "nowhere.csv"), NAMES, LABEL, IDS)
    (tmp_path / "g.csv").write_bytes(b"g\n\xff\xfe")
    with pytest.raises(UserError, match="cannot be read"):
        read_groups(str(tmp_path / "g.csv"), NAMES, LABEL, IDS)
    with pytest.raises(UserError, match="cifar100-superclasses: has no group for class 'cat'"):
        read_groups("cifar100-superclasses", NAMES, LABEL, IDS)
