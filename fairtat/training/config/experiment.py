"""A training run as a whole: the sections, what they must agree on, and the fairness rules that they name."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal

import torch

from fairtat.errors import UserError
from fairtat.extension import names_code
from fairtat.fairness import UNWEIGHTED, FairTAT, WeightRule
from fairtat.training.config import optimizing, sections
from fairtat.training.config.agreement import check_together
from fairtat.training.config.values import at_least, check_ranges, random_seed

__all__ = ["TrainConfig", "leaves", "make_fairness"]


@dataclass(frozen=True)
class TrainConfig:
    """One training run. Values are checked when it is made.

    Raises:
        UserError: a value out of range; the message names the key, the value and what was expected.
    """

    data: sections.DataConfig = field(default_factory=sections.DataConfig)
    """What to train on."""

    augment: optimizing.AugmentConfig = field(default_factory=optimizing.AugmentConfig)
    """What is done to batches of training images after data.augment."""

    model: sections.ModelConfig = field(default_factory=sections.ModelConfig)
    """The network."""

    attack: sections.AttackConfig = field(default_factory=sections.AttackConfig)
    """The attack that makes the training examples."""

    objective: sections.ObjectiveConfig = field(default_factory=sections.ObjectiveConfig)
    """What is minimized."""

    fairness: sections.FairnessConfig = field(default_factory=sections.FairnessConfig)
    """Targets, radii and class weights."""

    distill: sections.DistillConfig = field(default_factory=sections.DistillConfig)
    """The teacher of ard, rslad and absld."""

    averaging: optimizing.AveragingConfig = field(default_factory=optimizing.AveragingConfig)
    """Weight averaging."""

    awp: optimizing.AwpConfig = field(default_factory=optimizing.AwpConfig)
    """Adversarial weight perturbation."""

    optim: optimizing.OptimConfig = field(default_factory=optimizing.OptimConfig)
    """The optimizer and its learning rate."""

    eval: sections.EvalConfig = field(default_factory=sections.EvalConfig)
    """The validation after every epoch."""

    epochs: int = at_least(1, 30)
    """Passes over the training set."""

    batch_size: int = at_least(2, 128, because="BatchNorm needs two samples")
    """Images in one optimizer step, over all processes."""

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
        check_together(self)
        # A rule of the user's own is not imported here: the user has not yet said whether the file may name it.
        own_rule = names_code(self.fairness.weights)
        make_fairness(self, num_classes=2, weights=UNWEIGHTED if own_rule else None)


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
