from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from fairtat.evaluation import Bootstrap, Evaluation, newcombe, paired_bootstrap
from fairtat.evaluation.metrics import bootstrap
from fairtat.evaluation.metrics.bootstrap import paired_bootstraps

Make = Callable[..., Evaluation]

LABEL = [0] * 60 + [1] * 90 + [2] * 30


def run(make: Make, seed: int, accuracy: tuple[float, float, float], base: Evaluation | None = None) -> Evaluation:
    rng = np.random.default_rng(seed)
    right = rng.random(len(LABEL)) < np.array(accuracy)[LABEL]
    return make(LABEL, LABEL, [k if ok else (k + 1) % 3 for k, ok in zip(LABEL, right, strict=True)])


def by_hand(
    a: Evaluation, b: Evaluation, figure: Callable[[np.ndarray], float], draws: int = 3000
) -> tuple[float, float]:
    """The interval by drawing images one by one, class after class, with half an image more of each kind."""
    assert a.samples is not None
    assert b.samples is not None
    rng = np.random.default_rng(7)
    label, right = a.samples.label, (a.samples.correct("robust"), b.samples.correct("robust"))
    rows = [np.flatnonzero(label == k) for k in range(3)]
    differences = []
    kinds = np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])  # right in a, right in b
    pools = [np.concatenate([np.stack(right, 1)[of_class], kinds]) for of_class in rows]
    chances = [np.array([1.0] * len(of_class) + [0.5] * 4) / (len(of_class) + 2) for of_class in rows]
    for _ in range(draws):
        drawn = [
            pool[rng.choice(len(pool), len(of_class), p=chance)]
            for pool, chance, of_class in zip(pools, chances, rows, strict=True)
        ]
        before, after = np.array([of_class.mean(0) for of_class in drawn]).T
        differences.append(figure(after) - figure(before))
    return tuple(np.percentile(differences, (2.5, 97.5)))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("name", "figure"),
    [
        ("worst", lambda accuracy: accuracy.min()),
        ("gap", lambda accuracy: accuracy.max() - accuracy.min()),
        ("std", lambda accuracy: accuracy.std()),
        (
            "gini",
            lambda accuracy: np.abs(accuracy[:, None] - accuracy).mean() / (2 * accuracy.mean()) * 3 / (3 - 1),
        ),
        ("average", lambda accuracy: (accuracy * [60, 90, 30]).sum() / 180),
        (2, lambda accuracy: accuracy[2]),
    ],
)
def test_the_interval_is_that_of_drawing_images_one_by_one(
    make_evaluation: Make, name: str | int, figure: Callable[[np.ndarray], float]
) -> None:
    a, b = run(make_evaluation, 1, (0.8, 0.6, 0.4)), run(make_evaluation, 2, (0.7, 0.6, 0.55))
    found = paired_bootstrap(a, b, figure=name, draws=20_000)
    low, high = by_hand(a, b, figure)
    # Both are percentiles of a few thousand draws of a difference that scatters by about 0.1.
    assert found.interval == pytest.approx((low, high), abs=0.02)
    assert found.before == pytest.approx(figure(np.array(a.robust.accuracy)))
    assert found.after == pytest.approx(figure(np.array(b.robust.accuracy)))


def test_equal_runs_differ_by_nothing(make_evaluation: Make) -> None:
    a = run(make_evaluation, 1, (0.8, 0.6, 0.4))
    found = paired_bootstrap(a, a, draws=500)
    assert (found.difference, found.p_value, found.clear) == (0.0, 1.0, False)
    assert -0.1 < found.interval[0] < 0 < found.interval[1] < 0.1  # equal on these images is not equal on all


@pytest.mark.parametrize("lost", [3, 4, 6, 8, 12])
def test_a_class_has_the_verdict_of_its_newcombe_interval(make_evaluation: Make, lost: int) -> None:
    """One class loses images and gains none, which a plain bootstrap takes for certain from the fourth on."""
    label = [0] * 35 + [1] * 35
    a = make_evaluation(label, label, [0] * 12 + [2] * 23 + [1] * 30 + [2] * 5)
    b = make_evaluation(label, label, [0] * (12 - lost) + [2] * (23 + lost) + [1] * 30 + [2] * 5)
    low, high = newcombe(both=12 - lost, only_a=lost, only_b=0, neither=23)
    for figure in ("worst", 0):
        found = paired_bootstrap(a, b, figure=figure)
        assert found.clear == (high < 0)
        assert found.interval == pytest.approx((low, high), abs=0.06)


def test_figures_of_the_same_draws_are_those_of_one_at_a_time(make_evaluation: Make) -> None:
    a, b = run(make_evaluation, 1, (0.8, 0.6, 0.4)), run(make_evaluation, 2, (0.7, 0.6, 0.55))
    one_by_one = [paired_bootstrap(a, b, figure=figure, draws=400) for figure in ("worst", "gap")]
    assert paired_bootstraps(a, b, "robust", ["worst", "gap"], draws=400) == one_by_one


def test_draws_in_parts_are_the_same_draws(make_evaluation: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = run(make_evaluation, 1, (0.8, 0.6, 0.4)), run(make_evaluation, 2, (0.7, 0.6, 0.55))
    whole = paired_bootstrap(a, b, draws=301)
    monkeypatch.setattr(bootstrap, "CELLS_AT_ONCE", 50 * 12)
    assert paired_bootstrap(a, b, draws=301) == whole


def test_pairs_narrow_the_interval(make_evaluation: Make) -> None:
    right = [k if i % 2 else (k + 1) % 3 for i, k in enumerate(LABEL)]
    better = [k if i % 2 or i % 20 == 0 else (k + 1) % 3 for i, k in enumerate(LABEL)]
    paired = paired_bootstrap(
        make_evaluation(LABEL, LABEL, right), make_evaluation(LABEL, LABEL, better), figure="average"
    )
    mixed = run(make_evaluation, 3, (0.55, 0.55, 0.55))
    unpaired = paired_bootstrap(make_evaluation(LABEL, LABEL, right), mixed, figure="average")
    assert paired.clear
    assert paired.interval[1] - paired.interval[0] < (unpaired.interval[1] - unpaired.interval[0]) / 2


def test_a_large_gain_is_sure_and_a_small_one_is_not(make_evaluation: Make) -> None:
    base = run(make_evaluation, 1, (0.9, 0.8, 0.2))
    assert paired_bootstrap(base, run(make_evaluation, 2, (0.9, 0.8, 0.75))).p_value < 0.01
    assert not paired_bootstrap(base, run(make_evaluation, 4, (0.9, 0.8, 0.2))).clear


def test_the_seed_fixes_it(make_evaluation: Make) -> None:
    a, b = run(make_evaluation, 1, (0.8, 0.6, 0.4)), run(make_evaluation, 2, (0.7, 0.6, 0.55))
    assert paired_bootstrap(a, b, draws=300, seed=1) == paired_bootstrap(a, b, draws=300, seed=1)
    assert paired_bootstrap(a, b, draws=300, seed=1) != paired_bootstrap(a, b, draws=300, seed=2)


def test_an_absent_class_takes_no_part(make_evaluation: Make) -> None:
    label = [0] * 40 + [2] * 40
    a = make_evaluation(label, label, [0] * 30 + [1] * 10 + [2] * 20 + [0] * 20)
    b = make_evaluation(label, label, [0] * 30 + [1] * 10 + [2] * 36 + [0] * 4)
    for figure in ("worst", "worst_fifth", "gap", "std", "average"):
        found = paired_bootstrap(a, b, figure=figure, draws=200)
        assert all(map(math.isfinite, (found.before, found.after, *found.interval)))
    assert paired_bootstrap(a, b, figure="worst", draws=200).before == 0.5
    with pytest.raises(ValueError, match="class 1, of which there are no images"):
        paired_bootstrap(a, b, figure=1)


@pytest.mark.parametrize(
    ("options", "message"), [({"figure": "wrst"}, "did you mean 'worst'"), ({"draws": 0}, "draws")]
)
def test_wrong_arguments_are_named(make_evaluation: Make, options: dict[str, object], message: str) -> None:
    a = run(make_evaluation, 1, (0.8, 0.6, 0.4))
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(a, a, **options)  # type: ignore[arg-type]


def test_other_images_are_refused(make_evaluation: Make) -> None:
    one, two = make_evaluation([0, 1], [0, 1], [0, 1]), make_evaluation([1, 0], [0, 1], [0, 1])
    with pytest.raises(ValueError, match="different images"):
        paired_bootstrap(one, two)


def test_clear_is_an_interval_without_zero() -> None:
    assert Bootstrap("worst", 0.1, 0.3, (0.05, 0.3), 0.01, 100).clear
    assert not Bootstrap("worst", 0.1, 0.3, (-0.05, 0.3), 0.1, 100).clear
