# ruff: noqa: RUF009 - a Number is immutable, so an instance is a safe default
"""What an experiment is: nested dataclasses whose field docstrings are the command line's help.

`fairtat.training.config_io` reads and writes them as YAML.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

from fairtat.errors import UserError
from fairtat.fairness import FairTAT
from fairtat.training.number import Number

__all__ = [
    "AttackConfig",
    "DataConfig",
    "EvalConfig",
    "FairnessConfig",
    "ModelConfig",
    "OptimConfig",
    "TrainConfig",
    "make_fairness",
]


@dataclass(frozen=True)
class DataConfig:
    """What to train on, and how it is split."""

    name: str = "digits"
    """digits (1,797 images of 1x8x8), mnist5k (5,000 of 1x28x28), or the path of a .npz file with the arrays images
    (uint8, or floats in [0, 1]), labels (integers) and, if you like, class_names."""

    val: Number = Number(0.15)
    """Share of each class that is kept for validation: shown after every epoch, never trained on."""

    test: Number = Number(0.2)
    """Share of each class that is kept for `fairtat evaluate`: training never touches it."""

    seed: int = 0
    """Seed of the split. Apart from `seed`, so that runs with several seeds share their test images."""


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    name: str = "digits_cnn"
    """digits_cnn, mnist_cnn, mlp, preact_resnet18, or module:function of your own, which is called with
    num_classes, in_channels, image_size=(H, W) and the options, and returns a torch.nn.Module."""

    options: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments for that function, for example {width: 64}."""


@dataclass(frozen=True)
class AttackConfig:
    """The PGD attack that makes the training examples. Radii are in pixel units, where images lie in [0, 1]."""

    eps: Number = Number("8/255")
    """Radius of the attack; the margin rules scale it class by class. Fractions such as 8/255 are fine."""

    step_size: Number = Number("2/255")
    """Length of one step."""

    steps: int = 10
    """Number of steps: each costs one forward and one backward pass."""

    norm: Literal["linf", "l2"] = "linf"
    """Norm in which the radius is measured."""

    loss: Literal["ce", "margin", "dlr"] = "ce"
    """Loss that the attack follows: cross-entropy, Carlini-Wagner margin, or difference of logits ratio."""

    init: Literal["uniform", "normal", "zero"] = "uniform"
    """Start: uniform in the ball, a little Gaussian noise (as TRADES), or the image itself."""

    restarts: int = 1
    """Attacks from different starts, of which the strongest counts; the cost grows in proportion."""

    bn_mode: Literal["eval", "train", "train_frozen_stats"] = "eval"
    """BatchNorm while attacking: running statistics, batch statistics as the published codes do, or batch statistics
    that leave the running ones alone."""

    backend: Literal["auto", "cpu", "cuda", "triton", "reference"] = "auto"
    """Kernels of the attack; auto takes the fastest present (see `fairtat doctor`)."""

    engine: Literal["auto", "eager", "compiled"] = "auto"
    """How the attack's steps run, in training and validation: compiled makes a graph of them for the first batch, which
    takes seconds for a small network and half a minute for a ResNet, and is faster from then on; auto is eager."""


@dataclass(frozen=True)
class FairnessConfig:
    """How targets and radii follow the classes' robustness. The defaults are ordinary adversarial training; FAIR-TAT
    is targets cfps with margins G-rob."""

    targets: Literal["none", "random", "cfps", "confusion"] = "none"
    """none attacks away from the label; the others move each example towards a class that is drawn uniformly, by how
    many false positives it attracts, or by how often the true class is taken for it."""

    margins: str | list[str] = "fixed"
    """Radius of each class: fixed, or (lam + s) * eps with s from G-rob (robust accuracy), G-cfps, G-cfns (shares of
    false positives and negatives), or their twins T-rob, T-cfps, T-cfns relative to the target. A list combines."""

    lam: Number = Number(0.5)
    """The constant in (lam + s) * eps: 0.5 lets radii run from half to one and a half times eps."""

    tau: Number = Number(2.0)
    """Temperature of the targets: 0 is uniform, larger values go for confusing classes more often."""

    combine: Literal["avg", "min"] = "avg"
    """How the radii of several margin rules become one."""

    clamp: list[Number] | None = None
    """[low, high] bounds of the adapted radii in pixel units, or null."""

    begin: int = 1
    """How many epochs pass before the rules apply; until then targets are uniform and radii are eps."""


@dataclass(frozen=True)
class OptimConfig:
    """Stochastic gradient descent and its learning rate."""

    lr: Number = Number(0.1)
    """Learning rate at the start."""

    momentum: Number = Number(0.9)
    """Momentum."""

    weight_decay: Number = Number("5e-4")
    """L2 penalty on all parameters."""

    nesterov: bool = False
    """Nesterov's momentum."""

    schedule: Literal["constant", "step", "cosine"] = "step"
    """constant; step multiplies by gamma at each milestone; cosine falls to zero over the run."""

    milestones: list[Number] = field(default_factory=lambda: [Number(0.5), Number(0.75)])
    """Where the steps lie, as shares of all epochs."""

    gamma: Number = Number(0.1)
    """What a step multiplies the learning rate by."""


@dataclass(frozen=True)
class EvalConfig:
    """The untargeted attack on the validation part after every epoch: cheap figures to watch."""

    steps: int = 10
    """Number of steps."""

    eps: Number | None = None
    """Radius, the same for every class; null takes attack.eps."""

    step_size: Number | None = None
    """Length of one step; null takes attack.step_size."""

    restarts: int = 1
    """Attacks from different starts, of which the strongest counts."""

    batch_size: int = 512
    """Images at a time."""


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

    fairness: FairnessConfig = field(default_factory=FairnessConfig)
    """Targets and radii."""

    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimiser."""

    eval: EvalConfig = field(default_factory=EvalConfig)
    """The validation after every epoch."""

    objective: Literal["at"] = "at"
    """What is minimised; at is cross-entropy on the adversarial examples (Madry et al., 2018)."""

    epochs: int = 30
    """Passes over the training part."""

    batch_size: int = 128
    """Images in one step."""

    drop_last: bool = False
    """Leave out an epoch's last batch when it is smaller than the others."""

    seed: int = 0
    """Seed of weights, order, starts and targets; the same seed gives the same run."""

    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:1."""

    threads: int | None = None
    """CPU threads; null leaves PyTorch's choice."""

    output: str | None = None
    """Run folder, which must not exist or be empty; null makes runs/NAME-TIME."""

    def __post_init__(self) -> None:
        _check(self)


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
        seed=seed,
        device=device,
    )


Rule = tuple[Callable[[Any], bool], str]

_SHARE: Rule = (lambda v: 0 < v < 1, "a share above 0 and below 1")
_POSITIVE: Rule = (lambda v: 0 < v < math.inf, "a finite number above 0")
_NOT_NEGATIVE: Rule = (lambda v: 0 <= v < math.inf, "a finite number of 0 or more")
_AT_LEAST_1: Rule = (lambda v: v >= 1, "1 or more")
_STEPS: Rule = (lambda v: v >= 0, "0 or more")
_SEED: Rule = (lambda v: -(2**63) <= v < 2**64, "a whole number in [-2**63, 2**64)")

_RULES: dict[str, Rule] = {
    "data.val": _SHARE,
    "data.test": _SHARE,
    "data.seed": _SEED,
    "attack.eps": _NOT_NEGATIVE,
    "attack.step_size": _NOT_NEGATIVE,
    "attack.steps": _STEPS,
    "attack.restarts": _AT_LEAST_1,
    "optim.lr": _POSITIVE,
    "optim.momentum": (lambda v: 0 <= v < 1, "0 or more and below 1"),
    "optim.weight_decay": _NOT_NEGATIVE,
    "optim.milestones": (lambda v: all(0 < m < 1 for m in v), "shares of the epochs, above 0 and below 1"),
    "optim.gamma": _POSITIVE,
    "eval.steps": _STEPS,
    "eval.eps": _NOT_NEGATIVE,
    "eval.step_size": _NOT_NEGATIVE,
    "eval.restarts": _AT_LEAST_1,
    "eval.batch_size": _AT_LEAST_1,
    "epochs": _AT_LEAST_1,
    "batch_size": (lambda v: v >= 2, "2 or more (BatchNorm needs two samples)"),
    "seed": _SEED,
    "threads": _AT_LEAST_1,
}


def _check(config: TrainConfig) -> None:
    """Every range check of the configuration; the fairness rules' own are left to FairTAT, which makes them anyway."""
    for key, value in _leaves(config):
        predicate, expected = _RULES.get(key, (None, ""))
        if predicate is not None and value is not None and not predicate(value):
            raise UserError(f"{key} is {value}; expected {expected}")
    if config.data.val + config.data.test >= 1:
        raise UserError(f"data.val is {config.data.val} and data.test is {config.data.test}; expected a sum below 1")
    if config.optim.nesterov and not config.optim.momentum:
        raise UserError("optim.nesterov is true; expected optim.momentum above 0")
    try:
        make_fairness(config, num_classes=2)
    except (TypeError, ValueError) as error:
        raise UserError(f"fairness: {error}") from error


def _leaves(config: Any, prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for item in fields(config):
        value = getattr(config, item.name)
        key = prefix + item.name
        found += _leaves(value, key + ".") if is_dataclass(value) else [(key, value)]
    return found
