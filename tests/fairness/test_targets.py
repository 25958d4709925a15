from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor

from fairtat import ClassStats, ops
from fairtat.fairness.targets import MAX_TEMPERATURE, target_weight

# 0: 8 samples, two taken for 1; 1: one taken for 2; 2: one, taken for 0. Class 3 is absent.
LABEL = [0] * 8 + [1] * 2 + [2]
PRED = [0] * 6 + [1, 1] + [1, 2] + [0]


def weight_of(stats: ClassStats, targets: str, tau: float = 2.0) -> Tensor:
    weight = target_weight(stats, targets, tau=tau)
    assert weight is not None
    assert weight.dtype == torch.float64
    return weight


def test_cfps_by_hand(counted: Any) -> None:
    weight = weight_of(counted(4, LABEL, PRED), "cfps", tau=2.0)
    assert weight.tolist() == pytest.approx([math.exp(0.5), math.exp(1.0), math.exp(0.5), 1.0], rel=1e-12)


def test_confusion_by_hand(counted: Any) -> None:
    weight = weight_of(counted(4, LABEL, PRED), "confusion", tau=2.0)
    rates: list[list[float]] = [[6 / 8, 2 / 8, 0, 0], [0, 1 / 2, 1 / 2, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    expected = [[math.exp(2 * rate) for rate in row] for row in rates]
    assert weight.tolist() == [pytest.approx(row, rel=1e-12) for row in expected]


def test_random_and_a_temperature_of_zero_are_uniform(counted: Any) -> None:
    stats = counted(4, LABEL, PRED)
    for weight in (weight_of(stats, "random"), weight_of(stats, "cfps", 0.0), weight_of(stats, "confusion", 0.0)):
        assert (weight == 1).all()


def test_none_has_no_weights(counted: Any) -> None:
    assert target_weight(counted(4, LABEL, PRED), "none") is None


def test_without_errors_cfps_is_uniform(counted: Any) -> None:
    assert weight_of(counted(3, [0, 1, 2], [0, 1, 2]), "cfps").tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("targets", ["random", "cfps", "confusion"])
@pytest.mark.parametrize("tau", [-MAX_TEMPERATURE, MAX_TEMPERATURE])
def test_every_target_can_be_drawn_at_any_temperature(targets: str, tau: float) -> None:
    """All the errors of 100 classes land on class 0, the most lopsided weights there are."""
    stats = ClassStats(100).update(torch.eye(100)[:1].repeat(99, 1), torch.arange(1, 100))
    table = ops.target_table(weight_of(stats, targets, tau))
    share = table.diff(dim=-1, prepend=torch.zeros_like(table[..., :1]))
    share = share.expand(100, 100)[~torch.eye(100, dtype=torch.bool)]
    assert share.min() > 0


@pytest.mark.parametrize("targets", ["cfps", "confusion"])
def test_draws_follow_the_weights_without_the_own_label(counted: Any, targets: str) -> None:
    tau = 3.0
    weight = weight_of(counted(4, LABEL, PRED), targets, tau)
    table = ops.target_table(weight)
    n = 20_000
    for label in range(4):
        y = torch.full((n,), label)
        drawn = ops.sample_targets(y, table, seed=5, sample_ids=torch.arange(n) + label * n)
        observed = torch.bincount(drawn, minlength=4).tolist()
        assert observed[label] == 0
        row = (weight if weight.ndim == 1 else weight[label]).tolist()
        others = [t for t in range(4) if t != label]
        total = sum(row[t] for t in others)
        result = chisquare([observed[t] for t in others], [n * row[t] / total for t in others])
        assert result.pvalue > 1e-3


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ("confusoin", "did you mean 'confusion'"),
        ("zzz", "'none', 'random', 'cfps', 'confusion', got 'zzz'$"),
        (None, "got None"),
    ],
)
def test_an_unknown_rule_names_the_nearest(counted: Any, targets: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        target_weight(counted(4, LABEL, PRED), targets)


@pytest.mark.parametrize("tau", [math.nan, math.inf, 701.0, -701.0])
def test_a_temperature_out_of_range_is_an_error(counted: Any, tau: float) -> None:
    with pytest.raises(ValueError, match="tau must be finite"):
        target_weight(counted(4, LABEL, PRED), "cfps", tau=tau)


def test_auto_is_the_temperature_that_gives_the_ratio(counted: Any) -> None:
    stats = counted(4, LABEL, PRED)
    weight = target_weight(stats, "cfps", tau="auto", tau_ratio=6.0)
    shares = [1 / 4, 2 / 4, 1 / 4, 0.0]
    tau = math.log(6.0) / (max(shares) - min(shares))
    assert weight is not None
    expected = [math.exp(tau * (share - min(shares))) for share in shares]
    assert weight.tolist() == pytest.approx(expected, rel=1e-12)

    conditional = target_weight(stats, "confusion", tau="auto", tau_ratio=6.0)
    assert conditional is not None
    for y, row in enumerate([[6 / 8, 2 / 8, 0, 0], [0, 1 / 2, 1 / 2, 0], [1, 0, 0, 0], [0, 0, 0, 0]]):
        others = [rate for t, rate in enumerate(row) if t != y]
        spread = max(others) - min(others)
        tau = math.log(6.0) / spread if spread else 0.0
        for t in {0, 1, 2, 3} - {y}:
            assert float(conditional[y, t]) == pytest.approx(math.exp(tau * (row[t] - min(others))), rel=1e-12)


def test_auto_without_errors_is_uniform(counted: Any) -> None:
    weight = target_weight(counted(3, [0, 1, 2], [0, 1, 2]), "cfps", tau="auto")
    assert weight is not None
    assert weight.tolist() == [1.0, 1.0, 1.0]


def test_the_published_temperature_is_nearly_uniform() -> None:
    """Shares as published for CIFAR-10, 0.04 to 0.19."""
    shares = [0.04, 0.05, 0.12, 0.19, 0.14, 0.13, 0.11, 0.08, 0.07, 0.07]
    p = [math.exp(2 * s) / sum(math.exp(2 * t) for t in shares) for s in shares]
    assert min(p) > 0.085
    assert max(p) < 0.125


@pytest.mark.parametrize(("option", "value"), [("tau", "automatic"), ("tau_ratio", 0.5), ("tau_ratio", math.inf)])
def test_temperatures_that_cannot_be(counted: Any, option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=option):
        target_weight(counted(4, LABEL, PRED), "cfps", **{option: value})
