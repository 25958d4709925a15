"""Rules that weight classes: in the loss, in the radius and in the step of the attack."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from fairtat.checks import check_choice
from fairtat.errors import did_you_mean
from fairtat.fairness.weights.bat import BAT
from fairtat.fairness.weights.cfol import CFOL
from fairtat.fairness.weights.dafa import DAFA, dafa_weight
from fairtat.fairness.weights.frl import FRL
from fairtat.fairness.weights.rule import ClassFactors, ValidationRule, WeightRule
from fairtat.fairness.weights.wat import WAT

__all__ = [
    "BAT",
    "CFOL",
    "DAFA",
    "FRL",
    "UNWEIGHTED",
    "WAT",
    "WEIGHT_RULES",
    "ClassFactors",
    "ValidationRule",
    "WeightRule",
    "dafa_weight",
    "make_weights",
]

UNWEIGHTED = "none"

WEIGHT_RULES: dict[str, type[WeightRule]] = {rule.name: rule for rule in (DAFA, FRL, WAT, CFOL, BAT)}
"""Rules by the name that a configuration uses; beside them, "none" stands for no weights."""


def make_weights(
    weights: str,
    num_classes: int,
    options: Mapping[str, Any] | None = None,
    *,
    device: torch.device | str = "cpu",
) -> WeightRule | None:
    """The rule that a configuration names, with its options; None for "none".

    Args:
        weights: "none", or a name in WEIGHT_RULES.
        num_classes: C >= 2.
        options: the rule's own keyword arguments, for example {"warmup": 70, "lam": 1.0} for "dafa".
        device: where the rule's tensors live.

    Raises:
        TypeError, ValueError: an unknown rule or option (the nearest one is named), or a value out of range.
    """
    check_choice("weights", weights, [UNWEIGHTED, *WEIGHT_RULES])
    options = {} if options is None else options
    if not isinstance(options, Mapping):
        raise TypeError(f"weight_options must be a mapping, got {options!r}")
    if weights == UNWEIGHTED:
        if options:
            raise ValueError(f"weight_options must be empty with weights='none', got {dict(options)!r}")
        return None
    rule = WEIGHT_RULES[weights]
    known = _option_names(rule)
    for name in options:
        if name not in known:
            raise ValueError(f"weight_options has no {name!r} for weights={weights!r}{did_you_mean(str(name), known)}")
    try:
        return rule(num_classes, device=device, **options)
    except (TypeError, ValueError) as error:
        raise type(error)(f"weight_options of {weights}: {error}") from error


def _option_names(rule: type[WeightRule]) -> list[str]:
    parameters = inspect.signature(rule).parameters.values()
    return [item.name for item in parameters if item.kind is item.KEYWORD_ONLY and item.name != "device"]
