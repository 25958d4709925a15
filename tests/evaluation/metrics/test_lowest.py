"""The lowest of several accuracies: limits against scipy, coverage and bias against a known truth."""

from __future__ import annotations

import numpy as np
import pytest

from fairtat.evaluation import ClassFigures
from fairtat.evaluation.metrics.lowest import clopper_pearson, lowest_accuracy, sidak

SETS = 150
TRUTHS = {
    "ten alike": (np.full(10, 0.5), np.full(10, 100)),
    "ten in a row": (np.linspace(0.3, 0.8, 10), np.full(10, 100)),
    "two low ones": (np.array([0.2, 0.22, *[0.6] * 8]), np.full(10, 100)),
    "43 of GTSRB's sizes": (
        np.random.default_rng(1).beta(5, 3, 43),
        np.random.default_rng(2).choice([60, 90, 150, 270, 450, 750], 43),
    ),
    "a hundred alike": (np.full(100, 0.5), np.full(100, 50)),
}


@pytest.mark.parametrize("tail", [0.025, 0.0006, 0.25])
def test_limits_are_the_quantiles_of_the_beta_distribution(tail: float) -> None:
    beta = pytest.importorskip("scipy.stats").beta
    pairs = [(x, n) for n in (1, 2, 7, 100, 1000) for x in {0, 1, n // 3, n - 1, n}]
    x, n = (np.array(values, dtype=float) for values in zip(*pairs, strict=True))
    low, high = clopper_pearson(x, n, tail)
    expected_low = np.where(x == 0, 0, beta.ppf(tail, np.maximum(x, 1), n - x + 1))
    expected_high = np.where(x == n, 1, beta.ppf(1 - tail, x + 1, np.maximum(n - x, 1)))
    np.testing.assert_allclose(low, expected_low, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(high, expected_high, rtol=1e-8, atol=1e-12)


def test_impossible_counts_are_refused() -> None:
    for x, n in ((3, 2), (-1, 2), (0, 0)):
        with pytest.raises(ValueError, match=r"correct must be in \[0, n\]"):
            clopper_pearson(np.array([x]), np.array([n]), 0.025)
    with pytest.raises(ValueError, match="a class with samples"):
        lowest_accuracy([0, 0], [0, 0])


@pytest.fixture(scope="module")
def simulated() -> dict[str, dict[str, np.ndarray]]:
    """Test sets of every truth, and what was said of them."""
    random = np.random.default_rng(0)
    found = {}
    for name, (p, n) in TRUTHS.items():
        drawn = random.binomial(n, p, (SETS, len(p)))
        said = [lowest_accuracy(x.tolist(), n.tolist()) for x in drawn]
        found[name] = {
            "observed": (drawn / n).min(axis=1),
            "corrected": np.array([each.corrected for each in said]),
            "interval": np.array([each.interval for each in said]),
            "simultaneous": np.array([each.simultaneous for each in said]),
        }
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", TRUTHS)
def test_the_corrected_minimum_is_less_biased_than_the_plain_one(
    simulated: dict[str, dict[str, np.ndarray]], name: str
) -> None:
    p, n = TRUTHS[name]
    plain = (np.random.default_rng(5).binomial(n, p, (50_000, len(p))) / n).min(axis=1).mean() - p.min()
    moved = simulated[name]["corrected"] - simulated[name]["observed"]  # varies much less than either
    error = moved.std() / np.sqrt(SETS)
    assert (moved >= 0).all()
    assert plain < 0
    assert abs(plain + moved.mean()) < abs(plain) - 3 * error


@pytest.mark.slow
@pytest.mark.parametrize("name", TRUTHS)
def test_intervals_hold_at_least_as_often_as_they_say(simulated: dict[str, dict[str, np.ndarray]], name: str) -> None:
    p = TRUTHS[name][0]
    low, high = np.moveaxis(simulated[name]["simultaneous"], 2, 0)
    all_hold = ((low <= p) & (p <= high)).all(axis=1).mean()
    low, high = simulated[name]["interval"].T
    lowest_holds = ((low <= p.min()) & (p.min() <= high)).mean()
    noise = 3 * np.sqrt(0.05 * 0.95 / SETS)
    assert all_hold >= 0.95 - noise
    assert lowest_holds >= 0.95 - noise


def test_without_the_correction_for_many_classes_the_intervals_would_miss() -> None:
    """The worst of a hundred equal classes: what the usual interval of that class says of it is mostly wrong."""
    p, n = TRUTHS["a hundred alike"]
    drawn = np.random.default_rng(3).binomial(n, p, (200, 100))
    worst = drawn.min(axis=1)
    assert (clopper_pearson(worst, np.full(200, 50), 0.025)[1] >= 0.5).mean() < 0.5


def test_a_class_that_stands_alone_is_hardly_corrected() -> None:
    found = lowest_accuracy([20, *[80] * 9], [100] * 10)
    assert found.corrected == pytest.approx(0.2, abs=0.002)


def test_one_class_is_not_corrected_and_has_the_usual_interval() -> None:
    found = lowest_accuracy([30], [100])
    low, high = clopper_pearson(np.array([30]), np.array([100]), 0.025)
    assert found.corrected == pytest.approx(0.3, abs=1e-9)
    assert found.interval == pytest.approx((low[0], high[0]))
    assert found.simultaneous[0] == pytest.approx((low[0], high[0]))


def test_absent_classes_do_not_count() -> None:
    with_absent, without = lowest_accuracy([5, 0, 8], [10, 0, 10]), lowest_accuracy([5, 8], [10, 10])
    assert with_absent.corrected == without.corrected
    assert with_absent.interval == without.interval
    assert with_absent.simultaneous == (without.simultaneous[0], (0.0, 1.0), without.simultaneous[1])


def test_all_right_and_all_wrong_stay_within_0_and_1() -> None:
    assert lowest_accuracy([10, 10], [10, 10]).corrected == 1
    assert lowest_accuracy([0, 0], [10, 10]).corrected == 0
    assert lowest_accuracy([0, 0], [10, 10]).interval[0] == 0
    assert lowest_accuracy([10, 10], [10, 10]).interval[1] == 1


def test_the_expected_minimum_is_that_of_drawn_samples() -> None:
    from fairtat.evaluation.metrics.lowest import _bias_of_minimum

    random = np.random.default_rng(4)
    for p, n in (TRUTHS["ten in a row"], TRUTHS["43 of GTSRB's sizes"]):
        drawn = (random.binomial(n, p, (20_000, len(p))) / n).min(axis=1)
        error = drawn.std() / np.sqrt(len(drawn))
        assert _bias_of_minimum(p, n.astype(float)) == pytest.approx(drawn.mean() - p.min(), abs=4 * error + 2e-4)


def test_sidaks_level() -> None:
    assert sidak(0.95, 1) == 0.95
    assert sidak(0.95, 43) ** 43 == pytest.approx(0.95)


def test_figures_carry_them() -> None:
    import torch

    figures = ClassFigures(torch.tensor([[6, 2, 0], [0, 0, 0], [1, 0, 3]]))
    expected = lowest_accuracy([6, 0, 3], [8, 0, 4])
    assert figures.lowest == expected
    values = figures.to_dict(["cat", "dog", "ship"])
    assert values["worst"]["corrected"] == expected.corrected
    assert values["worst"]["interval"] == list(expected.simultaneous[0])
    assert values["worst"]["lowest_interval"] == list(expected.interval)
    assert [each["simultaneous"] for each in values["classes"]] == [list(pair) for pair in expected.simultaneous]
