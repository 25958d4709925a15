"""Target weights: how likely each class is to be the target of an attack on a sample of another class."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fairtat import checks
from fairtat.checks import check_choice
from fairtat.fairness.class_stats import ClassStats

UNTARGETED = "none"

MAX_TEMPERATURE = 700.0
"""Largest |tau|: a score lies in [0, 1], and float64 holds exp(+-700)."""

TargetRule = Callable[[ClassStats, float], Tensor]
"""(statistics, tau) -> float64 weights > 0, (C,) by target or (C, C) by [label, target]."""


def uniform(stats: ClassStats, tau: float) -> Tensor:
    """w_t = 1: (C,) float64."""
    return torch.ones(stats.num_classes, dtype=torch.float64, device=stats.device)


def cfps(stats: ClassStats, tau: float) -> Tensor:
    """w_t = exp(tau * CFPS_t): (C,) float64; uniform when there were no errors.

    Source: FAIR-TAT (arXiv:2410.23142). Its published code draws from softmax(2 * CFPS), which is tau = 2 here.
    """
    return torch.exp(tau * stats.cfps)


def confusion(stats: ClassStats, tau: float) -> Tensor:
    """w_yt = exp(tau * confusion[y, t] / n_y): (C, C) float64; uniform for a class y that had no samples.

    The twin of `cfps` that is conditional on the true class.
    """
    # Of an absent class the whole row of counts is 0, so dividing it by 1 gives weight 1 to every target.
    rate = stats.confusion.double() / stats.count.clamp(min=1).unsqueeze(1)
    return torch.exp(tau * rate)


TARGET_RULES: dict[str, TargetRule] = {"random": uniform, "cfps": cfps, "confusion": confusion}
"""Rules by the name that a configuration uses; beside them, "none" means untargeted attacks."""


def check_targets(name: str) -> str:
    """`name` if it is "none" or in TARGET_RULES; otherwise a ValueError that names the nearest valid one."""
    check_choice("targets", name, [UNTARGETED, *TARGET_RULES])
    return name


def check_tau(tau: float) -> float:
    """`tau` as a float; a ValueError if it is not within [-MAX_TEMPERATURE, MAX_TEMPERATURE]."""
    return checks.real("tau", tau, low=-MAX_TEMPERATURE, high=MAX_TEMPERATURE)


def target_weight(stats: ClassStats, targets: str = "cfps", *, tau: float = 2.0) -> Tensor | None:
    """Unnormalised target weights from the statistics of an epoch: p(t | y) is proportional to w_t or w_yt, t != y.

    The own label is not masked here: `ops.sample_targets` never draws it, whatever its weight.

    Args:
        stats: the statistics to go by.
        targets: "none", or a name in TARGET_RULES.
        tau: temperature, |tau| <= 700; 0 is uniform, a negative one prefers the classes that attract few errors.

    Returns:
        (C,) or (C, C) float64 on the statistics' device; None for "none".

    Raises:
        TypeError, ValueError: an unknown rule (the nearest one is named), or tau out of range.
    """
    name, tau = check_targets(targets), check_tau(tau)
    return None if name == UNTARGETED else TARGET_RULES[name](stats, tau)
