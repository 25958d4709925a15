# ruff: noqa: RUF009 - these calls make fields, or immutable numbers
"""The sections that say how the weights move, and what is done to whole batches of images before that."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from fairtat.errors import UserError, did_you_mean
from fairtat.training.config.values import Number, at_least, below_1, not_negative, positive, shares, unit

__all__ = ["AugmentConfig", "AveragingConfig", "AwpConfig", "OptimConfig"]


class Group(NamedTuple):
    """Parameters with settings of their own: an item of `optim.groups`."""

    match: list[str]  # names of parameters or layers, or patterns
    lr: float = 1.0  # what the learning rate is multiplied by
    weight_decay: float | None = None  # in place of optim.weight_decay, also where optim.decay leaves a parameter out


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer, its learning rate, and the parameters that it moves."""

    name: Literal["sgd", "adamw", "lion"] = "sgd"
    """sgd; adamw (Loshchilov and Hutter, 2019); or lion (Chen et al., 2023; needs timm)."""

    lr: Number = positive(0.1)
    """Learning rate at the start; the highest one after a warm-up and for onecycle. adamw takes about 1e-3, lion a
    third to a tenth of that."""

    momentum: Number = below_1(0.9)
    """Momentum of sgd."""

    betas: list[Number] | None = None
    """[beta1, beta2] of adamw and lion; null is [0.9, 0.999] for adamw and [0.9, 0.99] for lion."""

    weight_decay: Number = not_negative("5e-4")
    """sgd: L2 penalty; adamw and lion: share of a weight that a step takes off, times the learning rate."""

    decay: Literal["all", "matrices"] = "all"
    """Which parameters the weight decay acts on: all, or those of two dimensions or more, which leaves out biases and
    normalization layers."""

    nesterov: bool = False
    """Nesterov's momentum in sgd."""

    groups: list[dict[str, Any]] = field(default_factory=list)
    """Parameters with a learning rate or weight decay of their own, for example
    [{match: "features.*", lr: 0.1}, {match: classifier, weight_decay: 0}]. A parameter belongs to the first group that
    matches it. lr multiplies the rate. "*" stands for any text; a layer's name matches all in it."""

    freeze: list[str] = field(default_factory=list)
    """Parameters that stay as they are, by name or pattern as in groups. BatchNorm layers among them keep their running
    statistics, in the attack too."""

    thaw: list[str] = field(default_factory=list)
    """What is trained all the same: freeze ["*"] with thaw [classifier] is a linear probe."""

    schedule: Literal["constant", "step", "linear", "cosine", "onecycle"] = "step"
    """constant; step multiplies by gamma after the epoch of each milestone, or after every so many epochs; linear and
    cosine fall to zero from the warm-up to the end of the run, step by step; onecycle rises from lr / 25 for the first
    30% of the steps, then falls."""

    warmup: Number = not_negative(0)
    """Epochs in which the rate rises from zero, step by step; it multiplies what constant and step give."""

    milestones: list[Number] = shares([0.5, 0.75])
    """Where the steps lie, as shares of all epochs."""

    every: int | None = at_least(1, None)
    """Epochs between two steps, in place of milestones."""

    gamma: Number = positive(0.1)
    """What a step multiplies the learning rate by."""

    clip: Number | None = positive(None)
    """Largest L2 norm of the gradient of all parameters; longer ones are scaled down. null: no limit."""


def parameter_groups(optim: OptimConfig) -> list[Group]:
    """The items of ``optim.groups``, checked.

    Raises:
        UserError: an unknown key, no match, or a number out of range.
    """
    made = []
    for number, item in enumerate(optim.groups, start=1):
        for key in item:
            if key not in Group._fields:
                raise UserError(f"optim.groups has the key {key!r}{did_you_mean(str(key), Group._fields)}")
        match = item.get("match")
        patterns = [match] if isinstance(match, str) else match
        if not isinstance(patterns, list) or not patterns or not all(isinstance(name, str) for name in patterns):
            raise UserError(f"optim.groups: match of group {number} is {match!r}; expected names or patterns")
        lr, decay = item.get("lr", 1.0), item.get("weight_decay")
        try:
            lr, decay = Number(lr), None if decay is None else Number(decay)
        except (TypeError, ValueError) as error:
            raise UserError(f"optim.groups: group {number}: {error}") from error
        if not 0 < lr < math.inf:
            raise UserError(f"optim.groups: lr of group {number} is {lr}; expected a finite number above 0")
        if decay is not None and not 0 <= decay < math.inf:
            raise UserError(f"optim.groups: weight_decay of group {number} is {decay}; expected 0 or more, and finite")
        made.append(Group(patterns, float(lr), None if decay is None else float(decay)))
    return made


@dataclass(frozen=True)
class AugmentConfig:
    """What is done to batches of training images after data.augment. Each part of a batch that a process gets is
    augmented for itself."""

    randaugment: int = at_least(0, 0)
    """RandAugment (Cubuk et al., 2020): how many random operations each image goes through; 2 in the paper, 0 turns it
    off. Up to 16 groups of a batch's images share theirs. Needs torchvision."""

    magnitude: int = at_least(0, 9)
    """Their strength, from 0 to 30."""

    cutout: int = at_least(0, 0)
    """CutOut (DeVries and Taylor, 2017): pixels a side of a square that is blackened in each image; 8 in the paper for
    CIFAR-100, 16 for CIFAR-10. 0 turns it off."""

    mixup: Number = not_negative(0.0)
    """mixup (Zhang et al., 2018): alpha of the Beta distribution of the shares by which two images and their labels are
    mixed; 0 turns it off. With at and trades, without rules that follow classes. Needs torchvision."""

    cutmix: Number = not_negative(0.0)
    """CutMix (Yun et al., 2019): alpha of the share of an image that is pasted over another one; 1 in the paper, 0
    turns it off. With mixup, each batch has the one or the other. As mixup otherwise."""

    mix_share: Number = unit(1.0)
    """Share of the batches that are mixed."""


@dataclass(frozen=True)
class AveragingConfig:
    """A running average of the weights, which validation, checkpoints' `best` and evaluation then use."""

    name: Literal["none", "ema", "fawa", "swa"] = "none"
    """none; ema: exponential moving average; fawa: the same, updated only after epochs in which the robust validation
    accuracy of the plain weights' worst class is at least threshold (CFA); swa: the plain mean of all weights since
    begin (Izmailov et al., 2018)."""

    decay: Number = below_1(0.85)
    """What remains of the average at each update: average = decay * average + (1 - decay) * weights. Not of swa."""

    threshold: Number = below_1(0.2)
    """The worst class's robust validation accuracy that fawa asks for."""

    every: Literal["epoch", "step"] = "epoch"
    """When the average is updated; fawa knows epochs only."""

    begin: int = at_least(0, 0)
    """How many epochs pass before averaging starts."""

    batchnorm: Literal["auto", "average", "estimate"] = "auto"
    """BatchNorm statistics of the average: averaged like the weights, or estimated for them by a pass over the training
    images (as they are, without attack) at the end of each epoch. auto: estimated for swa, whose mean of weights may
    lie far from each of them, averaged for ema and fawa."""


@dataclass(frozen=True)
class AwpConfig:
    """Adversarial weight perturbation (Wu et al., 2020): the step is taken at weights moved to where they hurt most."""

    gamma: Number = not_negative(0.0)
    """Relative size of the perturbation; 0 turns it off. The authors have 0.01 for at and 0.005 for trades."""

    begin: int = at_least(0, 0)
    """How many epochs pass before it starts."""
