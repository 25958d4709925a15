"""What the settings of several sections must agree on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fairtat.errors import UserError
from fairtat.extension import names_code
from fairtat.fairness.weights import FairARD
from fairtat.models import check_options
from fairtat.models.published import TIMM
from fairtat.radius import check_radius
from fairtat.training.config.optimizing import parameter_groups
from fairtat.training.config.sections import FairnessConfig

if TYPE_CHECKING:
    from fairtat.training.config.experiment import TrainConfig

__all__ = ["check_together"]

# Objectives that weight whole samples, so that FAAL's factor means something; and those with attacks of their own kind.
_WEIGHTED = ("at", "fat", "trades", "mart")
_DISTILLING = ("ard", "rslad", "absld")
_UNTARGETED = ("bat", *_DISTILLING)
_DIVERGING = ("trades", "csr", "rslad", "absld")  # their untargeted attacks, by default


def _check_objective(config: TrainConfig) -> None:
    """What an objective asks of the other sections."""
    name = config.objective.name
    if config.objective.faal is not None and name not in _WEIGHTED:
        raise UserError(f"objective.faal is {config.objective.faal}; expected null with objective.name {name}")
    if config.distill.weights is not None and name not in _DISTILLING:
        raise UserError(f"distill.weights is given; expected null with objective.name {name}, which has no teacher")
    if name in _UNTARGETED and config.fairness.targets != "none":
        raise UserError(f"fairness.targets is {config.fairness.targets}; expected none with objective.name {name}")
    if name in (*_UNTARGETED, "ham") and config.attack.restarts > 1:
        raise UserError(f"attack.restarts is {config.attack.restarts}; expected 1 with objective.name {name}")
    if name == "ham" and config.objective.mining_step >= config.attack.steps:
        raise UserError(
            f"objective.mining_step is {config.objective.mining_step}; expected less than attack.steps, "
            f"{config.attack.steps}"
        )
    equalize = [float(factor) for factor in config.objective.equalize]
    if len(equalize) != 3 or not all(0 <= factor < math.inf for factor in equalize):
        raise UserError(f"objective.equalize is {_shown(equalize)}; expected three finite numbers of 0 or more")


def _check_counted_steps(config: TrainConfig) -> None:
    """What a rule that counts the steps of the attack asks of it."""
    if config.fairness.weights != FairARD.name:
        return
    for key, value, expected in (
        ("fairness.targets", config.fairness.targets, "none"),
        ("attack.restarts", config.attack.restarts, 1),
    ):
        if value != expected:
            raise UserError(f"{key} is {value}; expected {expected} with fairness.weights {FairARD.name}")
    if config.objective.name == "fat":
        raise UserError(f"objective.name is fat, whose attacks stop early; not with fairness.weights {FairARD.name}")


def _check_noise(config: TrainConfig) -> None:
    """What an attack that starts outside of its ball asks of its other settings."""
    attack = config.attack
    if attack.noise is None:
        return
    for key, value, expected in (("attack.init", attack.init, "auto"), ("attack.restarts", attack.restarts, 1)):
        if value != expected:
            raise UserError(f"{key} is {value}; expected {expected} with attack.noise, which is the start")


def _check_mixed(rules: FairnessConfig) -> None:
    """What the choice of the samples that have targets asks of the other rules."""
    if rules.targeted == "all":
        return
    if rules.targets == "none":
        raise UserError("fairness.targeted is easy; expected fairness.targets random, cfps or confusion, got none")
    margins = [rules.margins] if isinstance(rules.margins, str) else rules.margins
    if any(name.startswith("T-") for name in margins):
        raise UserError(f"fairness.targeted is easy; expected no fairness.margins relative to targets, got {margins}")


def _check_optimizer(config: TrainConfig) -> None:
    """What one optimizer has and another has not."""
    optim = config.optim
    if optim.nesterov and not optim.momentum:
        raise UserError("optim.nesterov is true; expected optim.momentum above 0")
    if optim.nesterov and optim.name != "sgd":
        raise UserError(f"optim.nesterov is true; expected optim.name sgd, got {optim.name}")
    if optim.betas is not None:
        if optim.name == "sgd":
            raise UserError(f"optim.betas is {_shown(optim.betas)}; expected null with optim.name sgd")
        if len(optim.betas) != 2 or not all(0 <= beta < 1 for beta in optim.betas):
            raise UserError(f"optim.betas is {_shown(optim.betas)}; expected two numbers of 0 or more and below 1")
    if optim.thaw and not optim.freeze:
        raise UserError(f"optim.thaw is {optim.thaw}; expected patterns in optim.freeze that it makes exceptions from")
    parameter_groups(optim)
    if optim.warmup and optim.schedule == "onecycle":
        raise UserError(f"optim.warmup is {optim.warmup}; expected 0 with optim.schedule onecycle, which has its own")
    if optim.warmup >= config.epochs:
        raise UserError(f"optim.warmup is {optim.warmup}; expected less than epochs, which is {config.epochs}")


def _check_averaging(config: TrainConfig) -> None:
    averaging = config.averaging
    if averaging.name == "fawa" and averaging.every == "step":
        raise UserError("averaging.every is step; expected epoch, after which fawa knows the validation accuracy")


def _check_apgd(config: TrainConfig) -> None:
    """What the training attack APGD has no use for."""
    attack = config.attack
    if attack.name != "apgd":
        return
    wanted = [
        ("attack.restarts", attack.restarts, 1),
        ("attack.noise", attack.noise, None),
        ("attack.rel_step", attack.rel_step, None),
        ("attack.momentum", attack.momentum, 0),
        ("attack.eot", attack.eot, 1),
        ("attack.bn_mode", attack.bn_mode, "eval"),
        ("fairness.targeted", config.fairness.targeted, "all"),
    ]
    for key, value, expected in wanted:
        if value != expected:
            raise UserError(f"{key} is {_shown(value)}; expected {_shown(expected)} with attack.name apgd")
    if attack.init == "normal":
        raise UserError("attack.init is normal; expected auto, uniform or zero with attack.name apgd")
    if attack.steps < 1:
        raise UserError(f"attack.steps is {attack.steps}; expected 1 or more with attack.name apgd")
    name = config.objective.name
    watching = ("bat", "fat", "ham")
    if name in watching or config.fairness.weights == FairARD.name:
        what = f"objective.name {name}" if name in watching else f"fairness.weights {FairARD.name}"
        raise UserError(f"attack.name is apgd; expected pgd with {what}, which looks at each step of the attack")
    if names_code(attack.loss):
        raise UserError(f"attack.loss is {attack.loss}; expected auto, ce, margin or dlr with attack.name apgd")
    if attack.loss == "auto" and name in _DIVERGING:
        raise UserError(
            f"attack.loss is auto, a divergence for objective.name {name}; expected ce, margin or dlr with "
            "attack.name apgd"
        )


def _check_grad_align(config: TrainConfig) -> None:
    weight, name = config.objective.grad_align, config.objective.name
    if not weight:
        return
    if name != "at":
        raise UserError(f"objective.grad_align is {weight}; expected 0 with objective.name {name}")
    if config.compile:
        raise UserError(f"objective.grad_align is {weight}; expected compile false, which has no second derivatives")


def _check_augment(config: TrainConfig) -> None:
    """Images that are mixed have no class of their own, which most rules would need."""
    augment, rules = config.augment, config.fairness
    if augment.magnitude > 30:
        raise UserError(f"augment.magnitude is {augment.magnitude}; expected 0 to 30")
    mixed = next((key for key in ("mixup", "cutmix") if getattr(augment, key)), None)
    if mixed is None:
        return
    wanted = [
        ("fairness.targets", rules.targets, "none"),
        ("fairness.margins", rules.margins, "fixed"),
        ("fairness.weights", rules.weights, "none"),
        ("objective.faal", config.objective.faal, None),
        ("objective.ccr", config.objective.ccr, False),
        ("objective.grad_align", config.objective.grad_align, 0),
        ("data.extra", config.data.extra, None),
    ]
    for key, value, expected in wanted:
        if value != expected:
            raise UserError(
                f"{key} is {_shown(value)}; expected {_shown(expected)} with augment.{mixed}: it needs images of one "
                "class"
            )
    if config.objective.name not in ("at", "trades"):
        raise UserError(
            f"objective.name is {config.objective.name}; expected at or trades with augment.{mixed}: the others need "
            "images of one class"
        )


def _shown(value: object) -> str:
    """As YAML writes it."""
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def check_together(config: TrainConfig) -> None:
    """Check everything but the fairness rules, whose ranges are left to `FairTAT`.

    Raises:
        UserError: settings that contradict each other; the message names the keys.
    """
    check_options(config.model.options, "model.options")
    check_options(config.distill.options, "distill.options")
    if config.model.weights == TIMM and not config.model.name.startswith("timm:"):
        raise UserError(f"model.weights is timm; expected model.name timm:NAME, got {config.model.name}")
    for key, eps in (("attack.eps", config.attack.eps), ("eval.eps", config.eval.eps)):
        if eps is not None:
            check_radius(key, float(eps), config.attack.norm, error=UserError)
    if config.data.val + config.data.test >= 1:
        raise UserError(f"data.val is {config.data.val} and data.test is {config.data.test}; expected a sum below 1")
    if config.data.pseudo_labels is not None and config.data.extra is None:
        raise UserError("data.pseudo_labels is given; expected data.extra, the images that it labels")
    if float(config.data.balance) and config.fairness.weight_options.get("sampling"):
        raise UserError(f"data.balance is {config.data.balance}; expected 0 where the weight rule draws the classes")
    if config.objective.ccr and config.objective.name != "trades":
        raise UserError(f"objective.ccr is true; expected objective.name trades, got {config.objective.name}")
    if config.objective.ccr and config.objective.ccr_lam is None and isinstance(config.fairness.lam, list):
        raise UserError("objective.ccr_lam is null; expected a number where fairness.lam is a list")
    if config.objective.options and not names_code(config.objective.name):
        raise UserError(f"objective.options is {config.objective.options}; expected none for {config.objective.name}")
    _check_objective(config)
    _check_mixed(config.fairness)
    _check_noise(config)
    _check_counted_steps(config)
    _check_optimizer(config)
    _check_averaging(config)
    _check_apgd(config)
    _check_grad_align(config)
    _check_augment(config)
    if config.accumulate > config.batch_size // 2:
        raise UserError(
            f"accumulate is {config.accumulate}; expected at most {config.batch_size // 2}, two images a part"
        )
