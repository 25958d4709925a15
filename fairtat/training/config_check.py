"""Ranges and combinations that a configuration must keep to."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from fairtat.errors import UserError
from fairtat.fairness import FairTAT
from fairtat.models import check_options
from fairtat.radius import check_radius

if TYPE_CHECKING:
    from fairtat.training.config import TrainConfig

__all__ = ["check", "leaves", "make_fairness"]


def make_fairness(config: TrainConfig, num_classes: int, *, seed: int = 0, device: Any = "cpu") -> FairTAT:
    """The fairness rules of this configuration."""
    rules = config.fairness
    return FairTAT(
        num_classes,
        config.attack.eps,
        targets=rules.targets,
        margins=rules.margins,
        lam=rules.lam,
        tau=rules.tau,
        combine=rules.combine,
        clamp=rules.clamp,
        begin=rules.begin,
        weights=rules.weights,
        weight_options=rules.weight_options,
        seed=seed,
        device=device,
        norm=config.attack.norm,
    )


Rule = tuple[Callable[[Any], bool], str]

_SHARE: Rule = (lambda v: 0 < v < 1, "a share above 0 and below 1")
_POSITIVE: Rule = (lambda v: 0 < v < math.inf, "a finite number above 0")
_NOT_NEGATIVE: Rule = (lambda v: 0 <= v < math.inf, "a finite number of 0 or more")
_BELOW_1: Rule = (lambda v: 0 <= v < 1, "0 or more and below 1")
_AT_LEAST_1: Rule = (lambda v: v >= 1, "1 or more")
_STEPS: Rule = (lambda v: v >= 0, "0 or more")
_SEED: Rule = (lambda v: -(2**63) <= v < 2**64, "a whole number in [-2**63, 2**64)")

_RULES: dict[str, Rule] = {
    "data.val": _SHARE,
    "data.test": _SHARE,
    "data.seed": _SEED,
    "data.pad": _STEPS,
    "data.workers": _STEPS,
    "data.image_size": _AT_LEAST_1,
    "attack.eps": _NOT_NEGATIVE,
    "attack.step_size": _NOT_NEGATIVE,
    "attack.steps": _STEPS,
    "attack.restarts": _AT_LEAST_1,
    "objective.beta": _NOT_NEGATIVE,
    "objective.ccr_lam": _NOT_NEGATIVE,
    "objective.tau": _STEPS,
    "objective.label_smoothing": _BELOW_1,
    "averaging.decay": _BELOW_1,
    "averaging.threshold": _BELOW_1,
    "averaging.begin": _STEPS,
    "awp.gamma": _NOT_NEGATIVE,
    "awp.begin": _STEPS,
    "optim.lr": _POSITIVE,
    "optim.momentum": _BELOW_1,
    "optim.weight_decay": _NOT_NEGATIVE,
    "optim.milestones": (lambda v: all(0 < m < 1 for m in v), "shares of the epochs, above 0 and below 1"),
    "optim.gamma": _POSITIVE,
    "optim.clip": _POSITIVE,
    "eval.steps": _STEPS,
    "eval.eps": _NOT_NEGATIVE,
    "eval.step_size": _NOT_NEGATIVE,
    "eval.restarts": _AT_LEAST_1,
    "eval.batch_size": _AT_LEAST_1,
    "epochs": _AT_LEAST_1,
    "batch_size": (lambda v: v >= 2, "2 or more (BatchNorm needs two samples)"),
    "accumulate": _AT_LEAST_1,
    "checkpoint_every": _AT_LEAST_1,
    "seed": _SEED,
    "threads": _AT_LEAST_1,
}


def check(config: TrainConfig) -> None:
    """Every range check of the configuration; the fairness rules' own are left to FairTAT, which makes them anyway."""
    for key, value in leaves(config):
        predicate, expected = _RULES.get(key, (None, ""))
        if predicate is not None and value is not None and not predicate(value):
            raise UserError(f"{key} is {value}; expected {expected}")
    check_options(config.model.options, "model.options")
    for key, eps in (("attack.eps", config.attack.eps), ("eval.eps", config.eval.eps)):
        if eps is not None:
            check_radius(key, float(eps), config.attack.norm, error=UserError)
    if config.data.val + config.data.test >= 1:
        raise UserError(f"data.val is {config.data.val} and data.test is {config.data.test}; expected a sum below 1")
    if config.optim.nesterov and not config.optim.momentum:
        raise UserError("optim.nesterov is true; expected optim.momentum above 0")
    if config.objective.ccr and config.objective.name != "trades":
        raise UserError(f"objective.ccr is true; expected objective.name trades, got {config.objective.name}")
    if config.averaging.name == "fawa" and config.averaging.every == "step":
        raise UserError("averaging.every is step; expected epoch, after which fawa knows the validation accuracy")
    if config.accumulate > config.batch_size // 2:
        raise UserError(
            f"accumulate is {config.accumulate}; expected at most {config.batch_size // 2}, two images a part"
        )
    try:
        make_fairness(config, num_classes=2)
    except (TypeError, ValueError) as error:
        raise UserError(f"fairness: {error}") from error


def leaves(config: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Every setting by its dotted name, as on the command line."""
    found: list[tuple[str, Any]] = []
    for item in fields(config):
        value = getattr(config, item.name)
        key = prefix + item.name
        found += leaves(value, key + ".") if is_dataclass(value) else [(key, value)]
    return found
