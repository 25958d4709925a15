"""Fair-ARD's weights by the equation, in plain Python."""

from __future__ import annotations

import pytest
import torch

from fairtat import ClassStats
from fairtat.fairness.weights import FairARD

Y = torch.tensor([0, 0, 0, 1, 1, 2])
STEPS = torch.tensor([10, 9, 8, 2, 3, 0])  # means 9, 2.5 and 0; class 3 is absent


def by_hand(kappa: list[float], beta: float, low: float, high: float) -> list[float]:
    inverse = [(k + 1e-5) ** -beta for k in kappa]
    return [min(max(len(kappa) * v / sum(inverse), low), high) for v in inverse]


@pytest.mark.parametrize("beta", [0.0, 0.1, 2.0])
def test_the_equation_over_batches(beta: float) -> None:
    rule = FairARD(4, beta=beta, clamp=(0.01, 100.0))
    for part in (slice(0, 2), slice(2, 6), slice(6, 6)):
        rule.observe_steps(STEPS[part], Y[part])
    rule.end_epoch(ClassStats(4))
    weight, robust_weight, eps, step = rule.factors
    assert weight is robust_weight
    assert (eps, step) == (None, None)
    assert weight is not None
    assert weight[:3].tolist() == pytest.approx(by_hand([9, 2.5, 0], beta, 0.01, 100), rel=1e-12)
    assert weight[3] == 1.0
    if beta == 0:
        assert weight.tolist() == pytest.approx([1.0] * 4)


def test_the_published_bounds() -> None:
    rule = FairARD(4)
    rule.observe_steps(STEPS, Y)
    rule.end_epoch(ClassStats(4))
    assert rule.factors.weight is not None
    assert rule.factors.weight.tolist() == pytest.approx([5 / 6, 5 / 6, 5 / 2, 1.0])


def test_an_epoch_forgets_the_one_before() -> None:
    rule, fresh = FairARD(4), FairARD(4)
    rule.observe_steps(STEPS, Y)
    rule.end_epoch(ClassStats(4))
    for one in (rule, fresh):
        one.observe_steps(STEPS.flip(0), Y)
        one.end_epoch(ClassStats(4))
    assert rule.factors.weight is not None
    assert fresh.factors.weight is not None
    assert torch.equal(rule.factors.weight, fresh.factors.weight)


def test_nothing_observed_is_nothing_weighted() -> None:
    rule = FairARD(3)
    rule.end_epoch(ClassStats(3))
    assert rule.factors.weight is not None
    assert rule.factors.weight.tolist() == [1.0] * 3
