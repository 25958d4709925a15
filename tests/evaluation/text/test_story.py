# ruff: noqa: RUF001 - the page's own minus signs and dashes
"""The sentences of reports and terminals, on counts from which every number can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from fairtat.evaluation import (
    AttackSettings,
    Bootstrap,
    ClassFigures,
    Comparison,
    Condition,
    Evaluation,
    Predictions,
    Samples,
)
from fairtat.evaluation.metrics.intervals import newcombe
from fairtat.evaluation.text.story import Story, against_baseline, beside_baseline, of_one_run
from fairtat.evaluation.text.wording import between

ATTACK = AttackSettings("pgd", 8 / 255)
N = 40


def evaluation(right: Sequence[int], names: Sequence[str] = ("cat", "dog", "ship")) -> Evaluation:
    """40 images a class, of which the first ``right[k]`` withstand the attack; others say the next class."""
    classes = len(right)
    label = np.repeat(np.arange(classes), N)
    position = np.tile(np.arange(N), classes)
    robust = np.where(position < np.array(right)[label], label, (label + 1) % classes)
    outcomes = {
        name: Predictions(pred.astype(np.int32), np.zeros(len(label), np.float32), np.ones(len(label), bool))
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


def compared(before: Sequence[int], after: Sequence[int], names: Sequence[str] = ("cat", "dog", "ship")) -> Comparison:
    return Comparison({"at": evaluation(before, names), "fair": evaluation(after, names)})


def story(before: Sequence[int], after: Sequence[int], names: Sequence[str] = ("cat", "dog", "ship")) -> Story:
    return against_baseline(compared(before, after, names), "fair")


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
    stays = story((10, 20, 30), (10, 35, 30)).details[0]
    assert stays.startswith("The worst class stays at 25.0% (cat): 0.0 points [−")
    assert ", within noise. " in stays


def test_two_intervals_of_one_number_are_explained_and_come_to_one_verdict() -> None:
    """The lowest class loses 4 of 40 images and gains none: by itself that is noise (McNemar's p is 0.125)."""
    comparison = compared((14, 20, 30), (10, 20, 30))
    own = comparison.changes("fair")[0]
    assert own.interval == newcombe(both=10, only_a=4, only_b=0, neither=26)
    drawn = comparison.figure_change("fair", "worst")
    assert (own.difference, own.clear, drawn.clear) == (pytest.approx(drawn.difference), False, False)
    found = against_baseline(comparison, "fair")
    assert found.headline.startswith("No class moved by more than the choice of test images explains")
    assert found.details[0] == (
        f"The worst class fell from 35.0 to 25.0% (cat): −10.0 points {between(drawn.interval)}, within noise. "
        "The interval is that of the lowest of 3 classes, which may be another one on other images; cat alone has "
        f"{between(own.interval)}."
    )


def test_verdicts_that_differ_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = compared((14, 20, 30), (10, 20, 30))
    sure = Bootstrap("worst", 0.35, 0.25, (-0.2, -0.01), 0.04, 100)
    monkeypatch.setitem(comparison.bootstraps("fair"), "worst", sure)
    sentence = against_baseline(comparison, "fair").details[0]
    assert "−10.0 points [−20.0, −1.0]. The interval" in sentence
    assert sentence.endswith(", within noise.")


def test_what_one_image_is_worth_is_said_of_the_smallest_and_of_the_largest_class() -> None:
    assert story((10, 20, 30), (10, 20, 30)).details[-1] == "With 40 images per class, one image is 2.5 points."
    label, n = np.repeat([0, 1], [3, 34]), 37
    outcomes = {
        name: Predictions(label.astype(np.int32), np.ones(n, np.float32), np.ones(n, bool))
        for name in ("clean", ATTACK.name)
    }
    one = Evaluation(
        class_names=("a", "b"),
        conditions=tuple(
            Condition(name, kind, settings, ClassFigures.of(label, label, 2))
            for name, kind, settings in (("clean", "clean", None), (ATTACK.name, "attack", ATTACK))
        ),
        primary=ATTACK.name,
        samples=Samples.of(np.arange(n), label, outcomes, ATTACK.name),
    )
    assert against_baseline(Comparison({"one": one, "two": one}), "two").details[-1] == (
        "One image is 33.3 points of the smallest class (3 images) and 2.9 of the largest (34 images)."
    )


def test_the_averages_are_those_of_all_images() -> None:
    average, gap = story((10, 20, 30), (20, 20, 32)).details[1:3]
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
    found = of_one_run("at", evaluation((10, 20, 30)))
    assert found.headline.startswith("cat is the worst class of at: 25.0% of its images withstand the attack [1")
    assert found.details == (
        "Over all images 50.0% are right under attack and 100.0% without.",
        "The best class, ship, is 50.0 points above the worst.",
        "25.0% is the lowest of 3 estimates, and there is next to no bias in it. The lowest true accuracy, whichever "
        "has it, lies in [12.7, 44.6], and that of cat in [10.8, 44.6] (95% for all 3 at once, by "
        "Sidak's correction of Clopper-Pearson intervals).",
        "50% of all errors under attack land on dog.",
    )


def test_a_run_without_errors_has_no_class_that_they_land_on() -> None:
    found = of_one_run("at", evaluation((40, 40, 40)))
    assert found.details[0] == "Over all images 100.0% are right under attack and 100.0% without."
    assert "land on" not in " ".join(found.details)


@pytest.mark.parametrize("figure", ["worst", "worst_fifth", "average", "gap", "std"])
def test_intervals_hold_the_difference(figure: str) -> None:
    drawn = compared((10, 20, 30), (20, 20, 20)).figure_change("fair", figure)
    assert drawn.interval[0] <= drawn.difference <= drawn.interval[1]


def test_an_evaluation_beside_a_baseline_under_another_attack() -> None:
    before, after = evaluation([20, 30, 10]), evaluation([20, 30, 20])
    other = replace(
        after, conditions=(after.conditions[0], replace(after.conditions[1], settings=AttackSettings("pgd", 4 / 255)))
    )
    told = beside_baseline("run", other, before)
    # rho: (0.5 - 0.25) / 0.25 of the worst class, (70 - 60) / 60 of all images.
    assert told.headline.startswith("Against the baseline, the worst class went from 25.0 to 50.0%: +25.0 points [")
    assert told.headline.endswith("; rho +1.167.")
    assert told.details == ("The attacks differ: PGD-20, linf, eps 8/255 against PGD-20, linf, eps 4/255.",)
    assert beside_baseline("run", after, before).details == ()
    assert "\N{MINUS SIGN}" not in " ".join(beside_baseline("run", before, after).plain)
