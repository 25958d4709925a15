from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from fairtat.evaluation import Comparison, Evaluation, newcombe
from fairtat.evaluation.text.table import as_text, comparison_table
from fairtat.evaluation.text.wording import plain_points as points

Make = Callable[..., Evaluation]

# 40 images a class, robustly right: at 30, 20, 10 and fair 20, 20, 30, where the first ones of a class are shared.
LABEL = [0] * 40 + [1] * 40 + [2] * 40


def predictions(right: tuple[int, int, int]) -> list[int]:
    return [k if position < count else (k + 1) % 3 for k, count in enumerate(right) for position in range(40)]


@pytest.fixture
def comparison(make_evaluation: Make) -> Comparison:
    at = make_evaluation(LABEL, predictions((40, 40, 40)), predictions((30, 20, 10)))
    fair = make_evaluation(LABEL, predictions((40, 40, 38)), predictions((20, 20, 30)))
    return Comparison({"at": at, "fair": fair})


def test_changes_are_differences_of_class_accuracies(comparison: Comparison) -> None:
    robust = comparison.changes("fair")
    assert [c.name for c in robust] == ["cat", "dog", "ship"]
    assert [c.before for c in robust] == [0.75, 0.5, 0.25]
    assert [c.difference for c in robust] == [-0.25, 0.0, 0.5]
    assert robust[0].interval == newcombe(both=20, only_a=10, only_b=0, neither=10)
    assert robust[2].interval == newcombe(both=10, only_a=0, only_b=20, neither=10)
    assert [c.clear for c in robust] == [True, False, True]
    assert [c.difference for c in comparison.changes("fair", "clean")] == pytest.approx([0.0, 0.0, -0.05])


def test_the_average_counts_all_images(comparison: Comparison) -> None:
    change = comparison.average_change("fair")
    assert (change.n, change.before, change.after) == (120, 60 / 120, 70 / 120)
    assert change.interval == newcombe(both=50, only_a=10, only_b=20, neither=40)


def test_the_summary_says_who_gained_who_paid_and_what_is_noise(comparison: Comparison) -> None:
    headline, worst, average, gap, one_image = comparison.summary("fair")
    assert headline.startswith("ship gained 50.0 points of robust accuracy [+")
    assert "; cat lost 25.0 points of robust accuracy [-" in headline
    assert headline.endswith("; dog moved by 0.0, within noise.")
    assert worst.startswith("The worst class rose from 25.0 to 50.0% (ship, now cat): +25.0 points [0.0, +")
    assert "went from 50.0 to 58.3%, +8.3 [" in average
    assert ", within noise; clean accuracy" in average
    assert gap.startswith("Best and worst class are 25.0 points apart instead of 50.0: -25.0 [-")
    assert one_image == "With 40 images per class, one image is 2.5 points."


def test_small_changes_are_called_noise(make_evaluation: Make) -> None:
    one = make_evaluation(LABEL, LABEL, predictions((30, 20, 10)))
    two = make_evaluation(LABEL, LABEL, predictions((29, 20, 11)))
    lines = Comparison({"one": one, "two": two}).summary("two")
    assert lines[0].startswith("No class moved by more than the choice of test images explains")
    assert all(", within noise" in line for line in lines[1:4])


def test_equal_runs_have_no_winners(make_evaluation: Make) -> None:
    one, two = (make_evaluation(LABEL, LABEL, predictions((30, 20, 10))) for _ in range(2))
    lines = Comparison({"one": one, "two": two}).summary("two")
    assert lines[0] == "No class's robust accuracy changed."
    assert all(", within noise" in line for line in lines[1:4])


def test_one_number_has_one_interval_wherever_it_is_shown(comparison: Comparison) -> None:
    """The table, the sentences and the file take every difference from the same place."""
    values = comparison.to_dict()["against_baseline"]["fair"]
    table = as_text([comparison_table(comparison)])
    for label, figure in (
        ("average", "average"), ("worst class", "worst"), ("worst 20%", "worst_fifth"), ("best - worst", "gap"),
        ("std", "std"),
        ("Gini", "gini"),
    ):  # fmt: skip
        change = comparison.figure_change("fair", figure)
        kept = values["robust"]["average"] if figure == "average" else values["bootstrap"][figure]
        assert (kept["difference"], kept["interval"], kept["clear"]) == (
            change.difference, [*change.interval], change.clear
        )  # fmt: skip
        (row,) = (line for line in table.splitlines() if line.strip().startswith(label))
        low, high = map(points, change.interval)
        assert row.split()[-2:] == [f"{'' if change.clear else '~'}{points(change.difference)}", f"{low}..{high}"]
        if figure in ("worst", "average", "gap"):
            assert f"[{low}, {high}]" in " ".join(values["summary"])


def test_a_class_without_images_takes_no_part(make_evaluation: Make) -> None:
    label = [0] * 40 + [2] * 40
    one = make_evaluation(label, label, [0] * 40 + [2] * 40)
    two = make_evaluation(label, label, [0] * 40 + [1] * 40)
    comparison = Comparison({"one": one, "two": two})
    lines = comparison.summary("two")
    assert lines[0].startswith("ship lost 100.0 points")
    assert lines[0].endswith("; cat moved by 0.0, within noise.")
    assert comparison.to_dict()["against_baseline"]["two"]["robust"]["classes"][1]["difference"] is None


def test_every_run_is_measured_against_the_first(comparison: Comparison) -> None:
    three = Comparison({**comparison.evaluations, "again": comparison.evaluations["at"]})
    assert [c.difference for c in three.changes("again")] == [0.0, 0.0, 0.0]
    assert three.changes("fair") == comparison.changes("fair")


def test_the_dictionary_is_plain_json_and_holds_the_figures(comparison: Comparison) -> None:
    values = json.loads(json.dumps(comparison.to_dict(), allow_nan=False))
    assert values["baseline"] == "at"
    assert list(values["runs"]) == ["at", "fair"]
    assert Evaluation.from_dict(values["runs"]["fair"]).robust.correct == [20, 20, 30]
    against = values["against_baseline"]["fair"]
    assert [c["difference"] for c in against["robust"]["classes"]] == [-0.25, 0.0, 0.5]
    assert against["summary"] == comparison.summary("fair")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ("cat", "dog", "plane")}, "a and b cannot be compared: their classes differ"),
        ({"label": [0] * 39 + [1] * 41 + [2] * 40}, "different images"),
        ({"eps": 0.1}, "attacked differently .*eps 8/255.*eps 0.1"),
        ({"steps": 10}, "attacked differently .*PGD-20.*PGD-10"),
    ],
)
def test_evaluations_of_different_questions_are_refused(
    make_evaluation: Make, change: dict[str, object], message: str
) -> None:
    arguments = {"label": LABEL, "clean": LABEL, "robust": LABEL}
    one, two = make_evaluation(**arguments), make_evaluation(**{**arguments, **change})
    with pytest.raises(ValueError, match=message):
        Comparison({"a": one, "b": two})


def test_one_evaluation_is_nothing_to_compare(make_evaluation: Make) -> None:
    with pytest.raises(ValueError, match="at least two"):
        Comparison({"a": make_evaluation(LABEL, LABEL, LABEL)})


def test_samples_are_needed(make_evaluation: Make) -> None:
    one = make_evaluation(LABEL, LABEL, LABEL)
    with pytest.raises(ValueError, match=r"per-sample outcomes \(the \.npz file\)"):
        Comparison({"a": one, "b": replace(one, samples=None)})
