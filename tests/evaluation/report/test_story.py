# ruff: noqa: RUF001 - the page's own minus signs and dashes
"""The sentences of the report, on counts from which every number can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from fairtat.evaluation import AttackSettings, ClassFigures, Comparison, Condition, Evaluation, Outcome, Samples
from fairtat.evaluation.report import RunRecord
from fairtat.evaluation.report.story import Story, against_baseline, bootstraps, of_one_run

ATTACK = AttackSettings("pgd", 8 / 255)
N = 40


def evaluation(right: Sequence[int], names: Sequence[str] = ("cat", "dog", "ship")) -> Evaluation:
    """40 images a class, of which the first ``right[k]`` withstand the attack; others say the next class."""
    classes = len(right)
    label = np.repeat(np.arange(classes), N)
    position = np.tile(np.arange(N), classes)
    robust = np.where(position < np.array(right)[label], label, (label + 1) % classes)
    outcomes = {
        name: Outcome(pred.astype(np.int32), np.zeros(len(label), np.float32), np.ones(len(label), bool))
        for name, pred in {"clean": label, ATTACK.name: robust}.items()
    }
    return Evaluation(
        class_names=tuple(names),
        conditions=tuple(
            Condition(name, kind, settings, ClassFigures.of(label, outcomes[name].pred, classes))
            for name, kind, settings in (("clean", "clean", None), (ATTACK.name, "attack", ATTACK))
        ),
        primary=ATTACK.name,
        samples=Samples.of(np.arange(len(label)), label, outcomes, ATTACK.name),
    )


def story(before: Sequence[int], after: Sequence[int], names: Sequence[str] = ("cat", "dog", "ship")) -> Story:
    comparison = Comparison({"at": evaluation(before, names), "fair": evaluation(after, names)})
    return against_baseline(comparison, "fair", bootstraps(comparison, "fair"))


def test_who_gained_and_who_paid_with_intervals_and_the_rest_as_noise() -> None:
    found = story((10, 30, 20), (30, 18, 21))
    assert found.headline.startswith("cat gained 50.0 points of robust accuracy [+")
    assert "; dog lost 30.0 points of robust accuracy [−" in found.headline
    assert found.headline.endswith("; ship moved by 2.5, within noise.")


def test_without_a_clear_change_the_largest_one_is_called_noise() -> None:
    assert story((10, 20, 30), (11, 20, 28)).headline.startswith(
        "No class moved by more than the choice of test images explains; the largest change is ship, −5.0 points [−"
    )
    assert story((10, 20, 30), (10, 20, 30)).headline == "No class's robust accuracy changed."


def test_the_worst_class_is_followed_where_it_goes() -> None:
    worst = story((10, 20, 30), (35, 20, 30)).details[0]
    assert worst.startswith("The worst class rose from 25.0 to 50.0% (cat, now dog): +25.0 points [+")
    assert story((10, 20, 30), (10, 35, 30)).details[0] == (
        "The worst class stays at 25.0% (cat): 0.0 points [0.0, 0.0], within noise."
    )


def test_the_averages_are_those_of_all_images() -> None:
    average, gap = story((10, 20, 30), (20, 20, 32)).details[1:]
    assert average.startswith("Robust accuracy over all images went from 50.0 to 60.0%, +10.0 [+")
    assert "clean accuracy from 100.0 to 100.0%, 0.0" in average
    assert gap.startswith("Best and worst class are 30.0 points apart instead of 50.0: −20.0 [−")


def test_many_gains_are_counted_after_the_first_few() -> None:
    names = [f"kind {k}" for k in range(7)]
    headline = story((0,) * 7, (40, 39, 38, 37, 36, 35, 1), names).headline
    assert headline.startswith("kind 0 gained 100.0 points")
    assert "kind 3 92.5 [" in headline
    assert "and 2 more classes; kind 6 moved by 2.5, within noise." in headline
    assert "kind 4" not in headline


def test_classes_that_are_called_by_numbers_are_told_from_figures() -> None:
    found = story((10, 20, 30), (30, 20, 30), ("0", "1", "2"))
    assert found.headline.startswith("Class 0 gained 50.0 points")
    assert found.headline.endswith("the other 2 classes moved by at most 0.0, within noise.")
    assert "(class 0, now class 1)" in found.details[0]


def test_one_run_by_itself() -> None:
    found = of_one_run(RunRecord("at", evaluation((10, 20, 30))))
    assert found.headline.startswith("cat is the worst class of at: 25.0% of its images withstand the attack [1")
    assert found.details == (
        "Over all images 50.0% are right under attack and 100.0% without.",
        "The best class, ship, is 50.0 points above the worst.",
        "50% of all errors under attack land on dog.",
    )


def test_a_run_without_errors_has_no_class_that_they_land_on() -> None:
    found = of_one_run(RunRecord("at", evaluation((40, 40, 40))))
    assert found.details == ("Over all images 100.0% are right under attack and 100.0% without.",)


@pytest.mark.parametrize("figure", ["worst", "average", "gap"])
def test_intervals_hold_the_difference(figure: str) -> None:
    comparison = Comparison({"at": evaluation((10, 20, 30)), "fair": evaluation((20, 20, 20))})
    drawn = bootstraps(comparison, "fair")[figure]
    assert drawn.interval[0] <= drawn.difference <= drawn.interval[1]
