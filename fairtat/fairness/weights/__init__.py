"""Rules that weight classes: in the loss, in the radius and in the step of the attack."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from fairtat.checks import check_choice
from fairtat.errors import did_you_mean
from fairtat.extension import import_code, names_code
from fairtat.fairness.weights.cfol import CFOL
from fairtat.fairness.weights.dafa import DAFA, dafa_weight
from fairtat.fairness.weights.even_success import EvenSuccess
from fairtat.fairness.weights.fair_ard import FairARD
from fairtat.fairness.weights.frl import FRL
from fairtat.fairness.weights.rule import ClassFactors, ValidationRule, WeightRule
from fairtat.fairness.weights.wat import WAT

__all__ = [
    "CFOL",
    "DAFA",
    "FRL",
    "RENAMED_RULES",
    "UNWEIGHTED",
    "WAT",
    "WEIGHT_RULES",
    "ClassFactors",
    "EvenSuccess",
    "FairARD",
    "ValidationRule",
    "WeightRule",
    "Weights",
    "dafa_weight",
    "make_weights",
]

UNWEIGHTED = "none"

WEIGHT_RULES: dict[str, type[WeightRule]] = {rule.name: rule for rule in (DAFA, FRL, WAT, CFOL, FairARD, EvenSuccess)}
"""Rules by the name that a configuration uses; beside them, "none" means no weights."""

RENAMED_RULES = {"bat": "even_success, the name of that rule now: BAT as published is the trainer's objective bat"}
"""Former names, and what to write in their place."""


Weights = str | WeightRule | Callable[..., WeightRule]
"""A rule by its name, as ``module:function``, as an object, or as the class or function that makes it."""


def make_weights(
    weights: Weights,
    num_classes: int,
    options: Mapping[str, Any] | None = None,
    *,
    device: torch.device | str = "cpu",
) -> WeightRule | None:
    """The rule that a configuration names or a program passes; None for "none".

    Args:
        weights: "none", a name in WEIGHT_RULES, a `WeightRule`, or what is called as ``weights(num_classes,
            device=device, **options)`` and returns one: a class, a function, or "module:function" to import it from.
        num_classes: C >= 2.
        options: the rule's own keyword arguments, for example {"warmup": 70, "lam": 1.0} for "dafa".
        device: where the rule's tensors live.

    Raises:
        TypeError, ValueError: an unknown rule or option (the nearest one is named), a value out of range, or a rule for
            another number of classes or device.
        UserError: a module or function that cannot be imported.
    """
    options = {} if options is None else options
    if not isinstance(options, Mapping):
        raise TypeError(f"weight_options must be a mapping, got {options!r}")
    if isinstance(weights, WeightRule):
        if options:
            raise ValueError(f"weight_options must be empty where weights is a rule, got {dict(options)!r}")
        return _checked(weights, num_classes, device)
    if isinstance(weights, str) and names_code(weights):
        return _made(weights, import_code("weights", weights), num_classes, options, device)
    if callable(weights):
        return _made(getattr(weights, "__name__", repr(weights)), weights, num_classes, options, device)
    if weights in RENAMED_RULES:
        raise ValueError(f"weights must be {RENAMED_RULES[weights]}, got {weights!r}")
    check_choice("weights", weights, [UNWEIGHTED, *WEIGHT_RULES])
    if weights == UNWEIGHTED:
        if options:
            raise ValueError(f"weight_options must be empty with weights='none', got {dict(options)!r}")
        return None
    return _made(weights, WEIGHT_RULES[weights], num_classes, options, device)


def _made(
    name: str, rule: Callable[..., Any], num_classes: int, options: Mapping[str, Any], device: torch.device | str
) -> WeightRule:
    known = _option_names(rule)
    for option in options:
        if known is not None and option not in known:
            hint = did_you_mean(str(option), known)
            raise ValueError(f"weight_options has no {option!r} for weights={name!r}{hint}")
    try:
        made = rule(num_classes, device=device, **options)
    except (TypeError, ValueError) as error:
        raise type(error)(f"weight_options of {name}: {error}") from error
    if not isinstance(made, WeightRule):
        raise TypeError(f"weights={name!r} must return a WeightRule, got a {type(made).__name__}")
    return _checked(made, num_classes, device)


def _checked(rule: WeightRule, num_classes: int, device: torch.device | str) -> WeightRule:
    if rule.num_classes != num_classes:
        raise ValueError(f"weights must be a rule for num_classes={num_classes}, got one for {rule.num_classes}")
    if rule.device.type != torch.device(device).type:
        raise ValueError(f"weights must be a rule on {str(device)!r}, got one on {str(rule.device)!r}")
    return rule


def _option_names(rule: Callable[..., Any]) -> list[str] | None:
    """The options that ``rule`` takes; None where its signature does not say."""
    parameters = inspect.signature(rule).parameters.values()
    if any(item.kind is item.VAR_KEYWORD for item in parameters):
        return None
    return [item.name for item in parameters if item.kind is item.KEYWORD_ONLY and item.name != "device"]
