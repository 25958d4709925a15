"""Adversarial training, and its friendly form."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fairtat import ops
from fairtat.data import Batch
from fairtat.fairness import FairTAT
from fairtat.logits import logits_of
from fairtat.training.config import TrainConfig
from fairtat.training.objectives.base import Examples, ObjectiveValue
from fairtat.training.objectives.examples import PGDObjective
from fairtat.training.objectives.grad_align import misalignment
from fairtat.training.objectives.losses import cross_entropy, weighted_mean

__all__ = ["AdversarialTraining", "FriendlyAdversarialTraining"]

_NEARBY = 1 << 20  # stream of GradAlign's points, apart from the starts of the attack and of its restarts


class AdversarialTraining(PGDObjective):
    """``mean_i w_i (CE(f(x_adv_i), y_i) + g (1 - cos_i))`` with w = `FairTAT.weight_for`.

    The attack ascends the label's cross-entropy or, targeted, descends the target's. g is ``objective.grad_align`` and
    cos that of `misalignment`, for which the model makes two more passes, of the images and of points near them.

    Source: Madry et al., ICLR 2018 (arXiv:1706.06083); targeted as in FAIR-TAT (arXiv:2410.23142).
    """

    def __init__(self, config: TrainConfig, **options: Any) -> None:
        super().__init__(config, **options)
        self._grad_align, self._norm = float(config.objective.grad_align), config.attack.norm

    def attack(self, model: nn.Module, batch: Batch, *, fair: FairTAT, target: Tensor | None, seed: int) -> Examples:
        """As `Objective.attack`; with GradAlign, hands on a random point near each image as well."""
        examples = super().attack(model, batch, fair=fair, target=target, seed=seed)
        if not self._grad_align:
            return examples
        nearby = ops.pgd_init(
            batch.x, fair.eps_for(batch.y), seed=seed, sample_ids=batch.ids, stream=_NEARBY, norm=self._norm
        )
        return examples._replace(more=(nearby,))

    def loss(self, model: nn.Module, batch: Batch, examples: Examples, *, fair: FairTAT) -> ObjectiveValue:
        logits = logits_of(model(examples.x_adv))
        loss = cross_entropy(logits, batch.y if examples.labels is None else examples.labels, self._label_smoothing)
        if self._grad_align:
            (nearby,) = examples.more
            loss = loss + self._grad_align * misalignment(model, batch.x, nearby, batch.y)
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
