from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from fairtat import ClassStats
from fairtat.fairness.weights import EvenSuccess

Counted = Callable[..., ClassStats]

LABEL = [0, 0, 1, 1, 2, 2]


def test_two_epochs_by_hand(counted: Counted) -> None:
    rule = EvenSuccess(4, alpha=0.2)
    rule.end_epoch(counted(4, LABEL, [0, 0, 1, 0, 0, 0]))  # robust accuracy 1, 1/2, 0; class 3 has no samples
    weight, robust_weight, eps, step = rule.factors
    assert (weight, robust_weight) == (None, None)
    assert eps is not None
    assert eps.tolist() == pytest.approx([math.exp(0.1), 1.0, math.exp(-0.1), 1.0], rel=1e-12)
    assert step is eps
    rule.end_epoch(counted(4, LABEL, [0, 0, 1, 0, 0, 2]))  # 1, 1/2, 1/2
    assert rule.factors.eps is not None
    expected = [0.1 + 0.2 / 3, -0.1 / 3, -0.1 - 0.1 / 3, 0.0]
    assert rule.factors.eps.log().tolist() == pytest.approx(expected, abs=1e-12)


def test_it_rests_when_the_attack_succeeds_equally_often(counted: Counted) -> None:
    rule = EvenSuccess(3, alpha=0.2)
    rule.end_epoch(counted(3, LABEL, [0, 0, 1, 0, 0, 0]))
    before = rule.log_eps
    rule.end_epoch(counted(3, LABEL, [0, 1, 1, 2, 2, 0]))
    assert rule.log_eps.tolist() == before.tolist()


def test_strengths_stay_in_their_range_and_leave_it_at_once(counted: Counted) -> None:
    rule = EvenSuccess(2, alpha=0.5, eps_range=(0.8, 1.25))
    for _ in range(50):
        rule.end_epoch(counted(2, [0, 1], [0, 0]))
    assert rule.factors.eps is not None
    assert rule.factors.eps.tolist() == pytest.approx([1.25, 0.8], rel=1e-12)
    assert rule.factors.eps.min() >= 0.8
    assert rule.factors.eps.max() <= 1.25
    rule.end_epoch(counted(2, [0, 1], [1, 1]))
    assert rule.factors.eps.tolist() == pytest.approx([1.25 * math.exp(-0.25), 0.8 * math.exp(0.25)], rel=1e-12)
