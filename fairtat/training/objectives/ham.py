"""Hard adversarial example mining."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fairtat.data import Batch
from fairtat.fairness import FairTAT
from fairtat.logits import logits_of
from fairtat.training.config import TrainConfig
from fairtat.training.objectives.base import Examples, ObjectiveValue
from fairtat.training.objectives.examples import PGDObjective
from fairtat.training.objectives.losses import cross_entropy

__all__ = ["HardExampleMining"]


class HardExampleMining(PGDObjective):
    """``sum_i h_i w_i CE(f(x_adv_i), y_i) / sum_i h_i``, over the hard samples of a batch; 0 where there are none.

    ``h_i = 1`` if after ``objective.mining_step`` steps of the attack the model gets the image wrong, else 0; the label
    counts in targeted attacks too. w = `FairTAT.weight_for`. For the share ``objective.begin`` of the epochs, all
    samples are hard, and this is adversarial training. The attack is watched, on the eager engine. Each part of a batch
    (accumulate, processes) has its own sums.

    Two points of the published code are not copied. A batch without hard samples stops it with an error. And there easy
    samples leave the batch, which saves their share of time and keeps them from BatchNorm's statistics; here they stay
    for the statistics of the classes.

    Source: Lin et al., IEEE TIFS 2024 (HAM), by its code.
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self._step = config.objective.mining_step
        self._begin = float(config.objective.begin) * config.epochs

    def attack(self, model: nn.Module, batch: Batch, *, fair: FairTAT, target: Tensor | None, seed: int) -> Examples:
        """As `Objective.attack`; hands on h (N,) bool, from the share of the epochs on where it counts."""
        if fair.epoch < self._begin:
            return super().attack(model, batch, fair=fair, target=target, seed=seed)
        hard = torch.zeros_like(batch.y, dtype=torch.bool)

        def watch(step: int, x_adv: Tensor, logits: Tensor) -> None:
            if step == self._step:
                torch.ne(logits.argmax(dim=1), batch.y, out=hard)

        made = self._examples(model, batch, fair=fair, target=target, seed=seed, watch=watch)
        return Examples(made.x_adv, (hard,))

    def loss(self, model: nn.Module, batch: Batch, examples: Examples, *, fair: FairTAT) -> ObjectiveValue:
        logits = logits_of(model(examples.x_adv))
        loss = cross_entropy(logits, batch.y, self._label_smoothing)
        weight = fair.weight_for(batch.y)
        if weight is not None:
            loss = weight * loss
        if not examples.more:
            return ObjectiveValue(loss.mean(), logits.detach())
        (hard,) = examples.more
        return ObjectiveValue((hard * loss).sum() / hard.sum().clamp(min=1), logits.detach())
