from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairtat.evaluation import newcombe, wilson
from fairtat.evaluation.metrics.intervals import Z95


# Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, the score method.
@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_intervals(correct: int, n: int, low: float, high: float) -> None:
    assert wilson(correct, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_limits_are_where_the_score_test_just_rejects(counts: tuple[int, int]) -> None:
    correct, n = counts
    p = correct / n
    for limit in wilson(correct, n):
        assert 0.0 <= limit <= 1.0
        # The defining equation: |p - limit| = z * sqrt(limit (1 - limit) / n).
        assert abs(p - limit) == pytest.approx(Z95 * math.sqrt(limit * (1 - limit) / n), abs=1e-6)


def test_wilson_at_the_ends_and_without_samples() -> None:
    assert wilson(0, 30)[0] == 0.0
    assert wilson(30, 30)[1] == 1.0
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("correct", "n"), [(-1, 3), (4, 3)])
def test_wilson_refuses_impossible_counts(correct: int, n: int) -> None:
    with pytest.raises(ValueError, match=f"correct={correct} with n={n}"):
        wilson(correct, n)


def test_newcombe_gives_a_published_interval() -> None:
    # Newcombe, Statistics in Medicine 17 (1998) 2635-2650, method 10 for the table 36, 12, 2, 0 (there p_a - p_b).
    low, high = newcombe(both=36, only_a=12, only_b=2, neither=0)
    assert (-high, -low) == pytest.approx((0.0569, 0.3404), abs=5e-5)


counts = st.integers(0, 400)


@given(counts, counts, counts, counts)
def test_newcombe_holds_the_difference_and_mirrors(both: int, only_a: int, only_b: int, neither: int) -> None:
    low, high = newcombe(both, only_a, only_b, neither)
    n = both + only_a + only_b + neither
    difference = (only_b - only_a) / n if n else 0.0
    assert -1.0 <= low <= difference <= high <= 1.0
    assert newcombe(both, only_b, only_a, neither) == pytest.approx((-high, -low))


def test_models_that_fail_together_give_a_narrower_interval() -> None:
    together = newcombe(both=50, only_a=2, only_b=8, neither=40)  # 52% and 58% right, in both cases
    apart = newcombe(both=30, only_a=22, only_b=28, neither=20)
    assert together[1] - together[0] < 0.6 * (apart[1] - apart[0])
    assert together[0] > -0.02
    assert apart[0] < -0.05


def test_newcombe_of_no_samples_says_nothing() -> None:
    assert newcombe(0, 0, 0, 0) == (-1.0, 1.0)
