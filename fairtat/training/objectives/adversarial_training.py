"""Adversarial training, and its friendly form."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fairtat.data import Batch
from fairtat.engines.model.network import logits_of
from fairtat.fairness import FairTAT
from fairtat.training.config import TrainConfig
from fairtat.training.objectives.base import Examples, ObjectiveValue
from fairtat.training.objectives.examples import ExampleMaker
from fairtat.training.objectives.losses import cross_entropy, weighted_mean

__all__ = ["AdversarialTraining", "FriendlyAdversarialTraining"]


class AdversarialTraining:
    """``mean_i w_i CE(f(x_adv_i), y_i)`` with w = `FairTAT.weight_for`.

    The attack ascends the label's cross-entropy or, targeted, descends the target's.

    Source: Madry et al., ICLR 2018 (arXiv:1706.06083); targeted as in FAIR-TAT (arXiv:2410.23142).
    """

    def __init__(self, config: TrainConfig, **attack_options: Any) -> None:
        self._examples = ExampleMaker(config, **attack_options)
        self._label_smoothing = float(config.objective.label_smoothing)

    def attack(self, model: nn.Module, batch: Batch, *, fair: FairTAT, target: Tensor | None, seed: int) -> Examples:
        return self._examples(model, batch, fair=fair, target=target, seed=seed)

    def loss(self, model: nn.Module, batch: Batch, examples: Examples, *, fair: FairTAT) -> ObjectiveValue:
        logits = logits_of(model(examples.x_adv))
        loss = cross_entropy(logits, batch.y, self._label_smoothing)
        return ObjectiveValue(weighted_mean(loss, fair.weight_for(batch.y)), logits.detach())


class FriendlyAdversarialTraining(AdversarialTraining):
    """Adversarial training on examples that stop ``tau`` steps after they cross the boundary.

    Crossing is a wrong prediction or, targeted, the target's: the examples are no stronger than they need to be.

    Source: Zhang et al., ICML 2020 (arXiv:2002.11242).
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config, early_stop=True, extra_steps=config.objective.tau)
