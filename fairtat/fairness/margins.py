"""Class radii: how far an attack on a sample of each class may go."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fairtat import checks
from fairtat.checks import check_choice
from fairtat.fairness.class_stats import ClassStats

ScoreRule = Callable[[ClassStats], Tensor]
"""statistics -> s (C,) float64, NaN for a class that is to keep the plain radius."""


def _ground_truth(score: Callable[[ClassStats], Tensor]) -> ScoreRule:
    return lambda stats: torch.where(stats.count > 0, score(stats), torch.nan)


def _target_relative(score: Callable[[ClassStats], Tensor]) -> ScoreRule:
    return lambda stats: torch.where(stats.target_count > 0, score(stats), torch.nan)


def _no_score(stats: ClassStats) -> Tensor:
    return torch.full((stats.num_classes,), torch.nan, dtype=torch.float64, device=stats.device)


MARGIN_RULES: dict[str, ScoreRule] = {
    "fixed": _no_score,
    "G-rob": _ground_truth(lambda stats: stats.accuracy),
    "G-cfps": _ground_truth(lambda stats: stats.cfps),
    "G-cfns": _ground_truth(lambda stats: stats.cfns),
    "T-rob": _target_relative(lambda stats: stats.target_rob),
    "T-cfps": _target_relative(lambda stats: stats.target_cfps),
    "T-cfns": _target_relative(lambda stats: stats.target_cfns),
}
"""Scores by the name that a configuration uses: G- is relative to the ground truth, T- to the attack's target.

A name that starts with T- makes `FairTAT` ask for the targets.
"""

COMBINATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "avg": lambda radii: radii.mean(dim=0),
    "min": lambda radii: radii.amin(dim=0),
}
"""How the radii (R, C) of several rules become one (C,)."""


def check_margins(margins: str | Sequence[str]) -> tuple[str, ...]:
    """The names of one or more rules as a tuple; a ValueError if it is empty or one is not in MARGIN_RULES."""
    if not isinstance(margins, (str, Sequence)):
        raise TypeError(f"margins must be the name of a rule or a sequence of names, got {margins!r}")
    names = (margins,) if isinstance(margins, str) else tuple(margins)
    if not names:
        raise ValueError(f"margins must name at least one of {', '.join(MARGIN_RULES)}, got {margins!r}")
    for name in names:
        check_choice("margins", name, list(MARGIN_RULES))
    return names


def check_combine(combine: str) -> str:
    """`combine` if it is in COMBINATIONS; otherwise a ValueError that names the nearest valid one."""
    check_choice("combine", combine, list(COMBINATIONS))
    return combine


def check_clamp(clamp: Sequence[float] | None) -> tuple[float, float] | None:
    """`clamp` as a pair 0 <= low <= high of finite radii, or None."""
    if clamp is None:
        return None
    return checks.interval("clamp", clamp, low=0.0, expected="None or a pair (low, high) of radii")


def per_rule(argument: str, value: float | Sequence[float], names: Sequence[str]) -> list[float]:
    """`value` for each of the rules: one number for all, or as many as there are rules, each finite and >= 0."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        return [checks.real(argument, value, low=0.0)] * len(names)
    if len(value) != len(names):
        raise ValueError(f"{argument} must be a number or one for each of {len(names)} margins, got {list(value)}")
    return [checks.real(argument, number, low=0.0) for number in value]


def check_mean_eps(mean_eps: str, clamp: tuple[float, float] | None) -> bool:
    """Whether the mean radius is kept; a ValueError where that cannot be."""
    check_choice("mean_eps", mean_eps, ["free", "keep"])
    if mean_eps == "keep" and clamp is not None:
        raise ValueError(f"mean_eps must be 'free' with a clamp, which moves the mean, got {mean_eps!r} with {clamp}")
    return mean_eps == "keep"


def class_radii(
    stats: ClassStats,
    eps: float,
    margins: str | Sequence[str] = "G-rob",
    *,
    lam: float | Sequence[float] = 0.5,
    scale: float | Sequence[float] = 1.0,
    combine: str = "avg",
    clamp: Sequence[float] | None = None,
    mean_eps: str = "free",
) -> Tensor:
    """Radius of each class from the statistics of an epoch: eps_k = (lam + scale * s_k) * eps.

    s is one of, ground-truth relative (G-) or target relative (T-):

        fixed     the plain radius, eps_k = eps
        G-rob     robust accuracy tp_k / n_k               T-rob    reached_k / (samples of k with a target)
        G-cfps    false positives fp_k / err               T-cfps   the same with pred == target as the hit
        G-cfns    false negatives fn_k / err               T-cfns   the same with pred == target as the hit

    T- statistics count a miss (pred != target) as a false positive of the predicted class and a false negative of the
    label's class. A class without samples (for T-: without targeted samples) keeps the plain eps under that rule.
    Without any errors the shares are 0, so the cfps and cfns rules give lam * eps.

    Args:
        stats: the statistics to go by.
        eps: plain radius >= 0, in pixel units.
        margins: a name in MARGIN_RULES, or several.
        lam: lambda >= 0, the part of eps that does not depend on the class; one for all rules, or one per rule.
        scale: >= 0, what the scores are multiplied by; one for all rules, or one per rule.
        combine: "avg" or "min" of the radii of several rules.
        clamp: (low, high) bounds of the combined radii, in pixel units as eps; None for none. They bound what the
            rules give: a class to which no rule applies keeps the plain eps as it is.
        mean_eps: "free", or "keep": multiply all radii by one factor, so that their mean over the samples of the
            statistics is eps. What is left then is how the rule shares the radius out. Not together with clamp.

    Returns:
        (C,) float64 radii in pixel units, on the statistics' device.

    Raises:
        TypeError, ValueError: an unknown rule (the nearest one is named), or a number out of range.

    Source: G-rob with lam = 0.5 is the class-wise calibrated margin of CFA (Wei et al., CVPR 2023, arXiv:2303.14460);
    the others are from FAIR-TAT (arXiv:2410.23142), whose published code has scale = 2 and a lambda of its own for
    G-cfps and T-cfps.
    """
    names, bounds = check_margins(margins), check_clamp(clamp)
    eps = checks.real("eps", eps, low=0.0)
    merge = COMBINATIONS[check_combine(combine)]
    keep = check_mean_eps(mean_eps, bounds)

    scores = torch.stack([MARGIN_RULES[name](stats) for name in names])  # (R, C)
    no_score = scores.isnan()
    constant, factor = (
        torch.tensor(per_rule(key, value, names), dtype=torch.float64, device=scores.device)[:, None]
        for key, value in (("lam", lam), ("scale", scale))
    )
    radii = merge(torch.where(no_score, eps, (constant + factor * scores) * eps))
    if keep:
        share = stats.count.double() / stats.count.sum()
        mean = (share * radii).sum()
        radii = torch.where(mean > 0, radii * (eps / mean), radii)
    if bounds is not None:
        radii = torch.where(no_score.all(dim=0), radii, radii.clamp(*bounds))
    return radii
