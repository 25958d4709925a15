"""Balance adversarial training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fairtat.data import Batch
from fairtat.fairness import FairTAT
from fairtat.logits import logits_of
from fairtat.training.config import TrainConfig
from fairtat.training.objectives.base import Examples, ObjectiveValue
from fairtat.training.objectives.examples import PGDObjective
from fairtat.training.objectives.losses import cross_entropy, divergence, divergence_to_uniform, weighted_mean

__all__ = ["BalanceAdversarialTraining"]


class BalanceAdversarialTraining(PGDObjective):
    """``mean_i w_i CE(f(c_i), y_i) + beta v_i KL(f(x_i) || f(a_i)) + KL(f(c_i) || u) + KL(f(a_i) || u)``.

    c is the last example of the attack that the model gets right, and a the one that follows the first that it gets
    wrong; u is the uniform distribution, w = `FairTAT.weight_for`, v = `FairTAT.robust_weight_for`. The first pair of
    terms evens out how far classes are carried beyond the boundary, the second to which classes they are carried.

    The attack is that of untargeted TRADES, watched in every step, which costs one more pass per step. With ``x_0`` its
    start and ``x_K`` its end, judged in the attack's BatchNorm mode::

        c = x_{k-1} with x_k the first wrong one of x_0, ..., x_{K-1}; x_0 if k = 0, and x_K if none is wrong
        a = the second wrong one of x_0, ..., x_{K-1}, or x_K

    The loss makes three passes: of c, of a, of the clean images. The statistics of the classes count a, which is no
    stronger than it must be, as in friendly adversarial training.

    Source: Sun et al., AAAI 2023 (arXiv:2209.07534), by its code: two attacks there, one here.
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config, init="normal", divergence=True)

    def attack(self, model: nn.Module, batch: Batch, *, fair: FairTAT, target: Tensor | None, seed: int) -> Examples:
        """As `Objective.attack`, of untargeted attacks; hands on c as well."""
        y, shape = batch.y, (-1, *[1] * (batch.x.ndim - 1))
        wrong_before = torch.zeros_like(y)  # how many examples so far were wrong
        correct, friendly = batch.x, batch.x
        *judged, last = self._examples.iterates(model, batch, fair=fair, seed=seed)
        for number, (x_adv, logits) in enumerate(judged):
            wrong = (logits.argmax(dim=1) != y).long()
            is_correct = (wrong_before + wrong == 0) | (number == 0)
            correct = torch.where(is_correct.view(shape), x_adv, correct)
            friendly = torch.where((wrong_before < 2).view(shape), x_adv, friendly)
            wrong_before += wrong
        correct = torch.where((wrong_before == 0).view(shape), last.x_adv, correct)
        friendly = torch.where((wrong_before < 2).view(shape), last.x_adv, friendly)
        return Examples(friendly, (correct,))

    def loss(self, model: nn.Module, batch: Batch, examples: Examples, *, fair: FairTAT) -> ObjectiveValue:
        (correct,) = examples.more
        correct_logits = logits_of(model(correct))
        logits = logits_of(model(examples.x_adv))
        clean_logits = logits_of(model(batch.x))
        natural = cross_entropy(correct_logits, batch.y, self._label_smoothing)
        robust = self._beta * divergence(logits, clean_logits)
        spread = divergence_to_uniform(correct_logits) + divergence_to_uniform(logits)
        loss = weighted_mean(natural, fair.weight_for(batch.y)) + weighted_mean(robust, fair.robust_weight_for(batch.y))
        return ObjectiveValue(loss + spread.mean(), logits.detach())
