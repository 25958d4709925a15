"""Misclassification-aware adversarial training."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from fairtat.data import Batch
from fairtat.fairness import FairTAT
from fairtat.logits import logits_of
from fairtat.training.config import TrainConfig
from fairtat.training.objectives.base import Examples, ObjectiveValue
from fairtat.training.objectives.examples import PGDObjective
from fairtat.training.objectives.losses import boosted_cross_entropy, divergence, weighted_mean

__all__ = ["Mart"]


class Mart(PGDObjective):
    """``mean_i w_i BCE(f(x_adv_i), y_i) + beta v_i KL(f(x_i) || f(x_adv_i)) (1 - p_{y_i}(x_i))``.

    BCE is cross-entropy and a margin term (`boosted_cross_entropy`), p the clean probability of the label, w =
    `FairTAT.weight_for` and v = `FairTAT.robust_weight_for`. The attack follows cross-entropy, from a little Gaussian
    noise. The loss makes two passes, first of the clean images, then of the adversarial ones, as `Trades`.

    Source: Wang et al., ICLR 2020, "Improving adversarial robustness requires revisiting misclassified examples".
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config, init="normal")

    def loss(self, model: nn.Module, batch: Batch, examples: Examples, *, fair: FairTAT) -> ObjectiveValue:
        clean_logits = logits_of(model(batch.x))
        logits = logits_of(model(examples.x_adv))
        boosted = boosted_cross_entropy(logits, batch.y, self._label_smoothing)
        doubt = 1 - F.softmax(clean_logits.float(), dim=1).gather(1, batch.y[:, None])[:, 0]
        robust = self._beta * divergence(logits, clean_logits) * doubt
        worst_case = self._worst_case(logits, batch.y)
        loss = weighted_mean(boosted, fair.weight_for(batch.y), worst_case) + weighted_mean(
            robust, fair.robust_weight_for(batch.y), worst_case
        )
        return ObjectiveValue(loss, logits.detach())
