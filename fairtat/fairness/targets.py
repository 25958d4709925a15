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

AUTO = "auto"

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


def check_tau(tau: float | str) -> float | str:
    """`tau` as a float, or "auto"; a ValueError if it is not within [-MAX_TEMPERATURE, MAX_TEMPERATURE]."""
    if isinstance(tau, str):
        check_choice("tau", tau, [AUTO])
        return tau
    return checks.real("tau", tau, low=-MAX_TEMPERATURE, high=MAX_TEMPERATURE)


def check_tau_ratio(ratio: float) -> float:
    """`ratio` as a float; a ValueError if it is not finite and >= 1."""
    return checks.real("tau_ratio", ratio, low=1.0)


def target_weight(
    stats: ClassStats, targets: str = "cfps", *, tau: float | str = 2.0, tau_ratio: float = 4.0
) -> Tensor | None:
    """Unnormalized target weights from the statistics of an epoch: p(t | y) is proportional to w_t or w_yt, t != y.

    The shares CFPS sum to 1, so with the published tau = 2 and ten classes the targets are nearly uniform:
    probabilities of 0.09 to 0.12 are typical. tau="auto" takes the tau by which the largest weight of a label's targets
    is `tau_ratio` times the smallest (for "cfps", of all classes).

    The own label is not masked here: `ops.sample_targets` never draws it, whatever its weight.

    Args:
        stats: the statistics to go by.
        targets: "none", or a name in TARGET_RULES.
        tau: temperature, |tau| <= 700, or "auto"; 0 is uniform, a negative one prefers the classes that attract few
            errors.
        tau_ratio: largest to smallest weight with tau="auto", >= 1; weights of equal scores are equal.

    Returns:
        (C,) or (C, C) float64 on the statistics' device; None for "none".

    Raises:
        TypeError, ValueError: an unknown rule (the nearest one is named), or tau out of range.
    """
    name, tau, ratio = check_targets(targets), check_tau(tau), check_tau_ratio(tau_ratio)
    if name == UNTARGETED:
        return None
    if isinstance(tau, float):
        return TARGET_RULES[name](stats, tau)
    score = TARGET_RULES[name](stats, 1.0).log()
    # The label's own score may lie anywhere, and its weight is never used.
    own = torch.zeros_like(score, dtype=torch.bool)
    if score.ndim == 2:
        own.fill_diagonal_(True)
    low = score.masked_fill(own, torch.inf).amin(dim=-1, keepdim=True)
    spread = score.masked_fill(own, -torch.inf).amax(dim=-1, keepdim=True) - low
    return ratio ** torch.where(spread > 0, (score - low) / spread, 0.0).clamp(0.0, 1.0)
