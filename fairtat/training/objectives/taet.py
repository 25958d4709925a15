"""Two-stage adversarial equalization training, for long-tailed data."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fairtat.data import Batch
from fairtat.fairness import FairTAT
from fairtat.logits import logits_of
from fairtat.training.config import TrainConfig
from fairtat.training.objectives.base import Examples, ObjectiveValue
from fairtat.training.objectives.examples import PGDObjective
from fairtat.training.objectives.losses import cross_entropy, weighted_mean

__all__ = ["AdversarialEqualization"]


class AdversarialEqualization(PGDObjective):
    """``a mean_c L_c + b mean_c (L_c - mean L)^2 + g sum_c (L_c / sum L)^2``, c the classes of the batch.

    ``L_c`` is the mean of ``w_i CE(f(x_adv_i), y_i)`` over the batch's samples of class c, w = `FairTAT.weight_for`,
    and (a, b, g) are ``objective.equalize``. For the share ``objective.begin`` of the epochs, nothing is attacked, and
    the loss is ``mean_i w_i CE(f(x_i), y_i)``. The attack follows cross-entropy from a little Gaussian noise. Each part
    of a batch (accumulate, processes) has class means of its own.

    In the published code a class that the batch lacks counts with L_c = 0, which pulls the mean to 0 and the other
    classes after it; here it does not count.

    Source: Wang et al., CVPR 2025 (TAET), by its code.
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config, init="normal")
        self._factors = tuple(map(float, config.objective.equalize))
        self._begin = float(config.objective.begin) * config.epochs

    def attack(self, model: nn.Module, batch: Batch, *, fair: FairTAT, target: Tensor | None, seed: int) -> Examples:
        """As `Objective.attack`; the images themselves in the first stage."""
        if fair.epoch < self._begin:
            return Examples(batch.x)
        return super().attack(model, batch, fair=fair, target=target, seed=seed)

    def loss(self, model: nn.Module, batch: Batch, examples: Examples, *, fair: FairTAT) -> ObjectiveValue:
        logits = logits_of(model(examples.x_adv))
        loss = cross_entropy(logits, batch.y, self._label_smoothing)
        weight = fair.weight_for(batch.y)
        if fair.epoch < self._begin:
            return ObjectiveValue(weighted_mean(loss, weight), logits.detach())
        loss = loss if weight is None else weight * loss
        present, means = _class_means(loss, batch.y, logits.shape[1])
        count = present.sum()
        mean, whole = means.sum() / count, means.sum()
        a, b, g = self._factors
        spread = torch.where(present, (means - mean).square(), 0.0).sum() / count
        shares = (means / whole.clamp(min=torch.finfo(means.dtype).tiny)).square().sum()
        return ObjectiveValue(a * mean + b * spread + g * shares, logits.detach())


def _class_means(loss: Tensor, y: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Which classes have samples, (C,) bool, and the mean loss of each, (C,), 0 where there are none."""
    count = torch.zeros(classes, dtype=loss.dtype, device=loss.device).index_add_(0, y, torch.ones_like(loss))
    sums = torch.zeros_like(count).index_add(0, y, loss)
    return count > 0, sums / count.clamp(min=1)
