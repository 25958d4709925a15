"""Adversarial training, and its friendly form."""

from __future__ import annotations

from torch import Tensor, nn

from fairtat.data import Batch
from fairtat.fairness import FairTAT
from fairtat.logits import logits_of
from fairtat.training.config import TrainConfig
from fairtat.training.objectives.base import Examples, ObjectiveValue
from fairtat.training.objectives.examples import PGDObjective
from fairtat.training.objectives.losses import cross_entropy, weighted_mean

__all__ = ["AdversarialTraining", "FriendlyAdversarialTraining"]


class AdversarialTraining(PGDObjective):
    """``mean_i w_i CE(f(x_adv_i), y_i)`` with w = `FairTAT.weight_for`.

    The attack ascends the label's cross-entropy or, targeted, descends the target's.

    Source: Madry et al., ICLR 2018 (arXiv:1706.06083); targeted as in FAIR-TAT (arXiv:2410.23142).
    """

    def loss(self, model: nn.Module, batch: Batch, examples: Examples, *, fair: FairTAT) -> ObjectiveValue:
        logits = logits_of(model(examples.x_adv))
        loss = cross_entropy(logits, batch.y, self._label_smoothing)
        worst_case = self._worst_case(logits, batch.y)
        return ObjectiveValue(weighted_mean(loss, fair.weight_for(batch.y), worst_case), logits.detach())


class FriendlyAdversarialTraining(AdversarialTraining):
    """Adversarial training on examples that stop ``tau`` steps after they cross the boundary.

    ``tau`` grows by one after each of ``objective.tau_milestones``, by the epochs that ``fair`` has finished.

    Crossing is a wrong prediction or, targeted, the target's: the examples are no stronger than they need to be.

    Source: Zhang et al., ICML 2020 (arXiv:2002.11242).
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config, early_stop=True)
        self._tau = config.objective.tau
        self._milestones = [float(share) * config.epochs for share in config.objective.tau_milestones]

    def attack(self, model: nn.Module, batch: Batch, *, fair: FairTAT, target: Tensor | None, seed: int) -> Examples:
        """As `Objective.attack`."""
        tau = self._tau + sum(fair.epoch >= milestone for milestone in self._milestones)
        return self._examples(model, batch, fair=fair, target=target, seed=seed, extra_steps=tau)
