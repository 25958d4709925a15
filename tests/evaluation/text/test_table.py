from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from rich.table import Table

from fairtat.evaluation import Comparison, Condition, CorruptionSettings, Evaluation, TargetedSweep
from fairtat.evaluation.text.table import comparison_table, evaluation_table, tables

Make = Callable[..., Evaluation]

DIGITS = tuple("0123456789")
LABEL = [k for k in range(10) for _ in range(36)]


def shifted(right: list[int]) -> list[int]:
    return [k if position < count else (k + 1) % 10 for k, count in enumerate(right) for position in range(36)]


@pytest.fixture
def digits(make_evaluation: Make) -> Evaluation:
    return make_evaluation(LABEL, LABEL, shifted([36, 18, 9, 0, 36, 36, 36, 36, 36, 27]), names=DIGITS)


def lines(table: Table, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def row(text: list[str], name: str) -> list[str]:
    return next(line.split() for line in text if line.split()[:1] == [name])


def test_evaluation_rows_hold_the_figures(digits: Evaluation) -> None:
    text = lines(evaluation_table(digits))
    assert row(text, "1")[:6] == ["1", "36", "100.0", "90-100", "50.0", "34-66"]
    assert row(text, "3")[4] == "*0.0"
    # 36 + 18 + 27 + 9 = 90 errors, of which the 36 of class 3 were taken for class 4.
    assert row(text, "4")[-1] == "0.400"
    assert row(text, "average")[1:] == ["100.0", "75.0"]
    assert ["worst", "20%", "100.0", "12.5"] in [line.split() for line in text]


def test_nothing_is_cut_off_at_80_columns(digits: Evaluation) -> None:
    comparison = Comparison({"mnist5k_at_a_long_name": digits, "b": digits})
    for table in (evaluation_table(digits), comparison_table(comparison)):
        text = lines(table)
        assert max(map(len, text)) <= 80
        assert not any("\u2026" in line for line in text)


def test_comparison_rows_hold_both_runs_and_mark_noise(make_evaluation: Make, digits: Evaluation) -> None:
    other = make_evaluation(LABEL, LABEL, shifted([36, 19, 27, 0, 36, 36, 36, 36, 36, 27]), names=DIGITS)
    text = lines(comparison_table(Comparison({"at": digits, "fair": other})))
    assert text[0].split() == ["A", "=", "at"]
    assert text[1].split() == ["B", "=", "fair"]
    assert row(text, "1")[2:7] == ["100.0", "50.0", "100.0", "52.8", "~+2.8"]
    assert row(text, "2")[2:7] == ["100.0", "25.0", "100.0", "75.0", "+50.0"]
    assert row(text, "0")[6] == "0.0"
    assert row(text, "average")[1:5] == ["100.0", "75.0", "100.0", "80.3"]


def test_three_runs_have_a_difference_each(digits: Evaluation) -> None:
    text = lines(comparison_table(Comparison({"a": digits, "b": digits, "c": digits})), width=100)
    assert row(text, "1") == ["1", "36", "100.0", "50.0", "100.0", "50.0", "0.0", "100.0", "50.0", "0.0"]


def test_an_absent_class_is_a_row_of_dashes(make_evaluation: Make) -> None:
    one = make_evaluation([0, 2], [0, 2], [0, 2])
    assert row(lines(evaluation_table(one)), "dog")[:3] == ["dog", "0", "-"]
    assert row(lines(comparison_table(Comparison({"a": one, "b": one}))), "dog") == ["dog", "0", *["-"] * 5]


def test_names_in_brackets_are_not_markup(make_evaluation: Make) -> None:
    one = make_evaluation([0, 1], [0, 1], [0, 1], names=["[bold]", "[unknown]"])
    assert row(lines(evaluation_table(one)), "[bold]")[1] == "1"
    text = lines(comparison_table(Comparison({"[a]": one, "b": one})))
    assert text[0].split() == ["A", "=", "[a]"]
    assert row(text, "[unknown]")[1] == "1"


def everything(evaluation: Evaluation) -> Evaluation:
    """The evaluation with a second attack, a corruption and a targeted sweep."""
    clean, robust = evaluation.conditions
    reached = torch.arange(evaluation.num_classes**2).reshape(evaluation.num_classes, -1).fill_diagonal_(0)
    return replace(
        evaluation,
        conditions=(
            clean,
            robust,
            replace(robust, name="fgsm", settings=replace(evaluation.attack, attack="fgsm", steps=1), attacked=7),
            Condition("fog/1", "corruption", CorruptionSettings("fog", 1), clean.figures),
            Condition("fog/5", "corruption", CorruptionSettings("fog", 5), robust.figures),
        ),
        targeted=TargetedSweep(evaluation.attack, tuple(clean.figures.n), reached),
    )


def test_there_is_a_table_for_everything_that_was_asked(digits: Evaluation) -> None:
    assert len(tables(digits)) == 1
    text = [lines(table) for table in tables(everything(digits))]
    assert len(text) == 4
    # 75% on average, class 3 at 0.
    (fgsm,) = (line.split() for line in text[1] if "FGSM" in line)
    assert fgsm[-6:] == ["75.0", "3", "0.0", "12.5", "35.4", "7"]
    assert row(text[2], "fog") == ["fog", "100.0", "75.0", "3", "0.0"]
    assert row(text[3], "1")[:4] == ["1", "28", "-", "33"]  # 10 and 12 of 36 images
    assert max(len(line) for table in text for line in table) <= 80


def test_many_classes_are_listed_by_pairs(make_evaluation: Make) -> None:
    label = list(range(20)) * 2
    evaluation = everything(make_evaluation(label, label, label, names=[f"c{k}" for k in label[:20]]))
    text = lines(tables(evaluation)[-1])
    assert next(line.split()[:2] for line in text if line.strip().startswith("c19")) == ["c19", "c18"]
    assert len([line for line in text if line.strip().startswith("c1")]) <= 21
