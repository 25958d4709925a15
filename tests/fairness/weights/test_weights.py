"""Rules by name, and what a configuration may get wrong."""

from __future__ import annotations

from typing import Any

import pytest

from fairtat.fairness.weights import CFOL, DAFA, FRL, WAT, EvenSuccess, make_weights


@pytest.mark.parametrize(
    ("name", "kind"),
    [("dafa", DAFA), ("frl", FRL), ("wat", WAT), ("cfol", CFOL), ("even_success", EvenSuccess), ("none", type(None))],
)
def test_rules_by_name(name: str, kind: type) -> None:
    assert type(make_weights(name, 10)) is kind


def test_options_reach_the_rule() -> None:
    rule = make_weights("dafa", 10, {"warmup": 3, "lam": 1.5, "clamp": [0.2, 4]})
    assert isinstance(rule, DAFA)
    assert (rule.warmup, rule.lam, rule.clamp) == (3, 1.5, (0.2, 4.0))


@pytest.mark.parametrize(
    ("weights", "options", "error", "message"),
    [
        ("daffa", {}, ValueError, "weights must be one of 'none', .*, got 'daffa'; did you mean 'dafa'"),
        ("none", {"lam": 1}, ValueError, "weight_options must be empty with weights='none', got {'lam': 1}"),
        ("dafa", {"warm_up": 3}, ValueError, "weight_options has no 'warm_up' for weights='dafa'; did you mean 'warm"),
        ("wat", {"warm_up": 3}, ValueError, "weight_options has no 'warm_up' for weights='wat'; did you mean 'warmup'"),
        ("dafa", {"device": "cpu"}, ValueError, "weight_options has no 'device'"),
        ("dafa", 3, TypeError, "weight_options must be a mapping, got 3"),
        ("dafa", {"warmup": 0}, ValueError, "weight_options of dafa: warmup must be an int and >= 1, got 0"),
        ("dafa", {"warmup": "70"}, TypeError, "warmup must be an int, got '70'"),
        ("dafa", {"lam": -1}, ValueError, "lam must be finite and >= 0.0, got -1"),
        ("dafa", {"clamp": [0, 2]}, ValueError, r"clamp must be \(low, high\) with low > 0, got \[0, 2\]"),
        ("dafa", {"clamp": 2}, TypeError, r"clamp must be a pair \(low, high\), got 2"),
        ("frl", {"mode": "re-margin"}, ValueError, "mode must be one of .* did you mean 'remargin'"),
        ("frl", {"tau1": -0.1}, ValueError, "tau1 must be finite and >= 0.0, got -0.1"),
        ("frl", {"limit": 1.0}, ValueError, "limit must be below 1"),
        ("frl", {"eps_range": [2, 1]}, ValueError, "eps_range must be .* low <= high"),
        ("wat", {"eta": "big"}, TypeError, "eta must be a real number, got 'big'"),
        ("wat", {"average": 1}, TypeError, "average must be true or false, got 1"),
        ("cfol", {"gamma": 0}, ValueError, "gamma must be above 0"),
        ("cfol", {"gamma": 1.5}, ValueError, "gamma must be finite and >= 0.0 and <= 1.0, got 1.5"),
        ("bat", {}, ValueError, "weights must be even_success, .* the trainer's objective bat, got 'bat'"),
        ("even_success", {"alpha": -1}, ValueError, "alpha must be finite and >= 0.0, got -1"),
        ("even_success", {"eps_range": [0, 1]}, ValueError, "eps_range must be .* low > 0"),
    ],
)
def test_a_wrong_setting_is_named(weights: str, options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make_weights(weights, 10, options)
