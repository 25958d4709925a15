from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fairtat import ClassStats
from fairtat.fairness.weights import FRL

Counted = Callable[..., ClassStats]


def validation(counted: Counted) -> tuple[ClassStats, ClassStats]:
    """10, 10 and 20 samples of classes 0, 1, 2 and none of 3.

    Errors: clean 0, 5, 4; attacked 2, 8, 16, so boundary 2, 3, 12. Over all: 9/40, 26/40 and 17/40.
    """
    label = [0] * 10 + [1] * 10 + [2] * 20
    clean = [0] * 10 + [1] * 5 + [0] * 5 + [2] * 16 + [1] * 4
    robust = [0] * 8 + [1] * 2 + [1] * 2 + [0] * 8 + [2] * 4 + [1] * 16
    return counted(4, label, clean), counted(4, label, robust)


NATURAL = [0.0 - 9 / 40, 0.5 - 9 / 40, 0.2 - 9 / 40]  # class error minus average error
BOUNDARY = [0.2 - 17 / 40, 0.3 - 17 / 40, 0.6 - 17 / 40]


def test_violations_by_hand(counted: Counted) -> None:
    rule = FRL(4, tau1=0.05, tau2=0.1)
    violation = rule.violation(*validation(counted)).tolist()
    assert violation[0] == pytest.approx([*(g - 0.05 for g in NATURAL), 0.0], abs=1e-12)
    assert violation[1] == pytest.approx([*(g - 0.1 for g in BOUNDARY), 0.0], abs=1e-12)


def test_an_epoch_by_hand(counted: Counted) -> None:
    rule = FRL(4, tau1=0.05, tau2=0.1, alpha1=0.5, alpha2=0.3, alpha_eps=0.4, eps_range=(0.5, 2.0))
    rule.observe_validation(*validation(counted))
    rule.end_epoch(ClassStats(4))
    natural = 0.5 * (NATURAL[1] - 0.05)  # only class 1 exceeds the tolerance for natural errors, 2 for boundary errors
    boundary = 0.3 * (BOUNDARY[2] - 0.1)
    assert rule.multipliers.tolist() == [
        pytest.approx([0, natural, 0, 0], abs=1e-12),
        pytest.approx([0, 0, boundary, 0], abs=1e-12),
    ]
    weight, robust_weight, eps, step = rule.factors
    assert weight is not None
    assert robust_weight is not None
    assert eps is not None
    assert weight.tolist() == pytest.approx([1 - natural, 1 + 3 * natural, 1 - natural, 1 - natural], rel=1e-12)
    assert robust_weight.tolist() == pytest.approx([1 - boundary] * 2 + [1 + 3 * boundary, 1 - boundary], rel=1e-12)
    expected = [*(torch.tensor(0.4 * (g - 0.1), dtype=torch.float64).exp().item() for g in BOUNDARY), 1.0]
    assert eps.tolist() == pytest.approx(expected, rel=1e-12)
    assert step is eps


def test_multipliers_add_up_over_the_epochs_to_the_limit_at_most(counted: Counted) -> None:
    rule = FRL(4, tau1=0.05, alpha1=0.5, tau2=0.0, alpha2=1.0, limit=0.3)
    clean, robust = validation(counted)
    step = 0.5 * (NATURAL[1] - 0.05)
    assert step < 0.3 < 3 * step
    for _ in range(2):
        rule.observe_validation(clean, robust)
        rule.end_epoch(ClassStats(4))
    assert rule.multipliers[0].tolist() == pytest.approx([0, 2 * step, 0, 0], abs=1e-12)
    for _ in range(5):
        rule.observe_validation(clean, robust)
        rule.end_epoch(ClassStats(4))
    assert rule.multipliers[0].tolist() == pytest.approx([0, 0.3, 0, 0], abs=1e-12)


def test_a_class_that_became_fair_loses_its_multiplier(counted: Counted) -> None:
    rule = FRL(2, tau1=0.1, alpha1=1.0)
    unfair = counted(2, [0, 0, 1, 1], [0, 0, 1, 0])
    fair = counted(2, [0, 0, 1, 1], [0, 0, 1, 1])
    rule.observe_validation(unfair, unfair)
    rule.end_epoch(ClassStats(2))
    assert rule.multipliers[0].tolist() == pytest.approx([0, 0.15])
    rule.observe_validation(fair, fair)  # every class is at the average, 0.1 inside the tolerance
    rule.end_epoch(ClassStats(2))
    assert rule.multipliers[0].tolist() == pytest.approx([0, 0.05])
    rule.observe_validation(fair, fair)
    rule.end_epoch(ClassStats(2))
    assert rule.multipliers[0].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("mode", "weighted", "robust_weighted", "remargined"),
    [("reweight", True, True, False), ("remargin", True, False, True), ("both", True, True, True)],
)
def test_modes(mode: str, weighted: bool, robust_weighted: bool, remargined: bool, counted: Counted) -> None:
    rule = FRL(4, mode=mode)
    rule.observe_validation(*validation(counted))
    rule.end_epoch(ClassStats(4))
    weight, robust_weight, eps, step = rule.factors
    found = (weight is not None, robust_weight is not None, eps is not None, step is not None)
    assert found == (weighted, robust_weighted, remargined, remargined)


def test_radii_stay_in_their_range_and_leave_it_at_once(counted: Counted) -> None:
    """Without bounds on the state, fifty epochs at a bound would have to be undone first."""
    rule = FRL(2, tau2=0.0, alpha_eps=1.0, eps_range=(0.9, 1.2))
    clean = counted(2, [0, 0, 1, 1], [0, 0, 1, 1])
    weak_1, weak_0 = counted(2, [0, 0, 1, 1], [0, 0, 0, 0]), counted(2, [0, 0, 1, 1], [1, 1, 1, 1])
    for _ in range(50):
        rule.observe_validation(clean, weak_1)
        rule.end_epoch(ClassStats(2))
    assert rule.factors.eps is not None
    assert rule.factors.eps.tolist() == pytest.approx([0.9, 1.2], rel=1e-12)
    assert rule.factors.eps.min() >= 0.9
    assert rule.factors.eps.max() <= 1.2
    rule.observe_validation(clean, weak_0)
    rule.end_epoch(ClassStats(2))
    assert rule.factors.eps.tolist() == pytest.approx([1.2, 0.9], rel=1e-12)
