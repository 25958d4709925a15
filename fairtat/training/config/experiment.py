"""A training run as a whole: the sections, what they must agree on, and the fairness rules that they name."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

import torch

from fairtat.errors import UserError
from fairtat.extension import names_code
from fairtat.fairness import UNWEIGHTED, FairTAT, WeightRule
from fairtat.fairness.weights import FairARD
from fairtat.models import check_options
from fairtat.radius import check_radius
from fairtat.training.config.sections import (
    AttackConfig,
    AveragingConfig,
    AwpConfig,
    DataConfig,
    DistillConfig,
    EvalConfig,
    FairnessConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
)
from fairtat.training.config.values import at_least, check_ranges, random_seed

__all__ = ["TrainConfig", "leaves", "make_fairness"]


@dataclass(frozen=True)
class TrainConfig:
    """One training run. Values are checked when it is made.

    Raises:
        UserError: a value out of range; the message names the key, the value and what was expected.
    """

    data: DataConfig = field(default_factory=DataConfig)
    """What to train on."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The network."""

    attack: AttackConfig = field(default_factory=AttackConfig)
    """The attack that makes the training examples."""

    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    """What is minimised."""

    fairness: FairnessConfig = field(default_factory=FairnessConfig)
    """Targets, radii and class weights."""

    distill: DistillConfig = field(default_factory=DistillConfig)
    """The teacher of ard, rslad and absld."""

    averaging: AveragingConfig = field(default_factory=AveragingConfig)
    """Weight averaging."""

    awp: AwpConfig = field(default_factory=AwpConfig)
    """Adversarial weight perturbation."""

    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimiser."""

    eval: EvalConfig = field(default_factory=EvalConfig)
    """The validation after every epoch."""

    epochs: int = at_least(1, 30)
    """Passes over the training part."""

    batch_size: int = at_least(2, 128, because="BatchNorm needs two samples")
    """Images in one optimiser step, over all processes."""

    accumulate: int = at_least(1, 1)
    """Parts that a batch is cut into, whose gradients are summed: the same step in less memory, but that BatchNorm and
    awp look at each part separately."""

    drop_last: bool = False
    """Leave out an epoch's last batch when it is smaller than the others."""

    seed: int = random_seed(0)
    """Seed of weights, order, starts and targets; the same seed gives the same run."""

    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:1."""

    threads: int | None = at_least(1, None)
    """CPU threads of each process; null leaves PyTorch's choice."""

    amp: Literal["none", "bf16", "fp16", "auto"] = "none"
    """Mixed precision of the model's passes in training and its attack; images, attack steps and weights stay in
    float32, and so does validation. auto is bf16 where the device has instructions for it, else none."""

    channels_last: Literal["auto", True, False] = False
    """Keep images and convolution weights in channels_last memory format. auto times a few passes in both formats when
    the run begins. What auto has become is in the run's config.yaml."""

    compile: bool = False
    """torch.compile the training pass; the attack has an engine of its own."""

    sync_batchnorm: bool = False
    """With several processes on GPUs: BatchNorm over the whole batch, not each process's part."""

    checkpoint_every: int = at_least(1, 1)
    """Epochs between two checkpoints, which a run that was stopped goes back to; the last epoch always has one."""

    tensorboard: bool = False
    """Also write every epoch's figures to OUTPUT/tensorboard, for `tensorboard --logdir` (needs tensorboard)."""

    output: str | None = None
    """Run folder, which must not exist or be empty; null makes runs/NAME-TIME."""

    def __post_init__(self) -> None:
        check_ranges(self)
        _check_together(self)


def leaves(config: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """Every setting by its dotted name, as on the command line."""
    found: list[tuple[str, Any]] = []
    for item in fields(config):
        value = getattr(config, item.name)
        key = prefix + item.name
        found += leaves(value, key + ".") if is_dataclass(value) else [(key, value)]
    return found


def make_fairness(
    config: TrainConfig,
    num_classes: int,
    *,
    weights: str | WeightRule | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> FairTAT:
    """The fairness rules of this configuration, with ``weights`` in place of its own if they are given.

    Raises:
        UserError: a setting out of range, or a weight rule of the user's own that cannot be made.
    """
    rules = config.fairness
    try:
        return FairTAT(
            num_classes,
            config.attack.eps,
            targets=rules.targets,
            margins=rules.margins,
            lam=rules.lam,
            scale=rules.scale,
            tau=rules.tau,
            tau_ratio=rules.tau_ratio,
            combine=rules.combine,
            clamp=rules.clamp,
            mean_eps=rules.mean_eps,
            begin=rules.begin,
            weights=rules.weights if weights is None else weights,
            weight_options=rules.weight_options if weights is None else None,
            seed=seed,
            device=device,
            norm=config.attack.norm,
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"fairness: {error}") from error


# Objectives that weight whole samples, so that FAAL's factor means something; and those with attacks of their own kind.
_WEIGHTED = ("at", "fat", "trades", "mart")
_DISTILLING = ("ard", "rslad", "absld")
_UNTARGETED = ("bat", *_DISTILLING)


def _check_objective(config: TrainConfig) -> None:
    """What an objective asks of the other sections."""
    name = config.objective.name
    if config.objective.faal is not None and name not in _WEIGHTED:
        raise UserError(f"objective.faal is {config.objective.faal}; expected null with objective.name {name}")
    if config.distill.weights is not None and name not in _DISTILLING:
        raise UserError(f"distill.weights is given; expected null with objective.name {name}, which has no teacher")
    if name in _UNTARGETED:
        if config.fairness.targets != "none":
            raise UserError(f"fairness.targets is {config.fairness.targets}; expected none with objective.name {name}")
        if config.attack.restarts > 1:
            raise UserError(f"attack.restarts is {config.attack.restarts}; expected 1 with objective.name {name}")


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


def _check_together(config: TrainConfig) -> None:
    """What several settings must agree on. The ranges of the fairness rules are left to `FairTAT`, which checks them.

    A weight rule of the user's own is not imported here: the user has not yet said whether the file may name it.
    """
    check_options(config.model.options, "model.options")
    check_options(config.distill.options, "distill.options")
    for key, eps in (("attack.eps", config.attack.eps), ("eval.eps", config.eval.eps)):
        if eps is not None:
            check_radius(key, float(eps), config.attack.norm, error=UserError)
    if config.data.val + config.data.test >= 1:
        raise UserError(f"data.val is {config.data.val} and data.test is {config.data.test}; expected a sum below 1")
    if config.data.pseudo_labels is not None and config.data.extra is None:
        raise UserError("data.pseudo_labels is given; expected data.extra, the images that it labels")
    if float(config.data.balance) and config.fairness.weight_options.get("sampling"):
        raise UserError(f"data.balance is {config.data.balance}; expected 0 where the weight rule draws the classes")
    if config.optim.nesterov and not config.optim.momentum:
        raise UserError("optim.nesterov is true; expected optim.momentum above 0")
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
    if config.averaging.name == "fawa" and config.averaging.every == "step":
        raise UserError("averaging.every is step; expected epoch, after which fawa knows the validation accuracy")
    if config.accumulate > config.batch_size // 2:
        raise UserError(
            f"accumulate is {config.accumulate}; expected at most {config.batch_size // 2}, two images a part"
        )
    make_fairness(config, num_classes=2, weights=UNWEIGHTED if names_code(config.fairness.weights) else None)
