"""The class-wise table as .csv, .parquet and .tex, read back by other programs."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fairtat.errors import UserError
from fairtat.evaluation import Evaluation
from fairtat.evaluation.text.export import EXPORTS, class_rows, export_classes

Make = Callable[..., Evaluation]

LABEL = [0, 0, 0, 0, 1, 1, 3]
CLEAN = [0, 0, 0, 1, 1, 1, 3]
ROBUST = [0, 0, 1, 1, 1, 0, 0]
NAMES = ("50% & \\more_{x}", '"cat", =1+1', "absent", "naïve~^<$#")


@pytest.fixture
def two(make_evaluation: Make) -> dict[str, Evaluation]:
    return {
        "AT & co": make_evaluation(LABEL, CLEAN, ROBUST, NAMES),
        "FAIR-TAT": make_evaluation(LABEL, LABEL, CLEAN, NAMES),
    }


def test_a_csv_file_has_a_row_for_each_model_condition_and_class(two: dict[str, Evaluation], tmp_path: Path) -> None:
    path = export_classes(two, tmp_path / "deep" / "table.csv")
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * 2 * 4
    by = {(row["model"], row["condition"], int(row["class"])): row for row in rows}
    assert [by["AT & co", "pgd-20", k]["name"] for k in range(4)] == list(NAMES)
    for model, pred in (("AT & co", ROBUST), ("FAIR-TAT", CLEAN)):
        for k in range(4):
            row, of_class = by[model, "pgd-20", k], [p for y, p in zip(LABEL, pred, strict=True) if y == k]
            assert (int(row["n"]), int(row["correct"])) == (len(of_class), of_class.count(k))
            if of_class:
                assert float(row["accuracy"]) == of_class.count(k) / len(of_class)
                assert float(row["simultaneous_low"]) <= float(row["low"]) <= float(row["high"])
            else:
                assert row["accuracy"] == row["low"] == row["simultaneous_high"] == ""


def test_a_parquet_file_holds_the_same_with_types(two: dict[str, Evaluation], tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(export_classes(two, tmp_path / "table.parquet"))
    assert table.to_pylist() == class_rows(two)
    kinds = {name: str(kind) for name, kind in zip(table.schema.names, table.schema.types, strict=True)}
    assert (kinds["name"], kinds["n"], kinds["accuracy"]) == ("string", "int64", "double")


def test_an_absent_first_class_leaves_the_types_as_they_are(make_evaluation: Make, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    evaluation = {"a": make_evaluation([1, 1, 2], [1, 1, 2], [1, 2, 2])}
    table = parquet.read_table(export_classes(evaluation, tmp_path / "table.parquet"))
    assert str(table.schema.field("accuracy").type) == "double"
    assert table.column("accuracy").to_pylist()[:2] == [None, 1.0]


def test_a_tex_table_is_balanced_and_its_names_are_no_commands(two: dict[str, Evaluation], tmp_path: Path) -> None:
    text = export_classes(two, tmp_path / "table.tex").read_text(encoding="utf-8")
    lines = text.splitlines()
    assert lines[0] == r"\begin{tabular}{lrrrrr}"
    assert lines[-1] == r"\end{tabular}"
    rows = [line for line in lines if line.endswith(r"\\")]
    columns = []
    for row in rows:
        cells = re.split(r"(?<!\\)&", row)
        columns.append(sum(2 if "multicolumn{2}" in cell else 1 for cell in cells))
    assert set(columns) == {6}
    bare = re.sub(r"\\[\\{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert r"50\% \& \textbackslash{}more\_\{x\} & 4 & " in text
    assert "naïve\\textasciitilde{}\\textasciicircum{}\\textless{}\\$\\#" in text
    assert r"absent & 0 & -- & -- & -- & --" in text
    assert r"\textbf{0.0} {\scriptsize [0, 79]}" in text  # the one image of the last class, by Wilson's formula
    assert "average &  & 85.7 & 42.9 & 100.0 & 85.7" in text


def test_a_tex_table_of_other_classes_is_refused(
    two: dict[str, Evaluation], make_evaluation: Make, tmp_path: Path
) -> None:
    two["other"] = make_evaluation([0, 1], [0, 1], [0, 1], ("x", "y"))
    with pytest.raises(UserError, match="those of other are others"):
        export_classes(two, tmp_path / "table.tex")
    assert export_classes(two, tmp_path / "table.csv").is_file()


@pytest.mark.parametrize("name", ["table", "table.xlsx", "table.csv.gz"])
def test_other_suffixes_are_refused(two: dict[str, Evaluation], tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"ends in {', '.join(EXPORTS)}, got"):
        export_classes(two, tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_pyarrow_is_told(two: dict[str, Evaluation], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    with pytest.raises(UserError, match=r"needs pyarrow: pip install 'fairtat\[parquet\]'"):
        export_classes(two, tmp_path / "table.parquet")
    assert list(tmp_path.iterdir()) == []
