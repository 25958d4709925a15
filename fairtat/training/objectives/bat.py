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

    The attack is that of untargeted TRADES, watched in every step, on the eager engine. With ``x_0`` its start and
    ``x_K`` its end, judged in the attack's BatchNorm mode::

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
        way = _Way(batch.y, batch.x)
        last = self._examples(model, batch, fair=fair, target=target, seed=seed, watch=way).x_adv
        return Examples(way.friendly(last), (way.correct(last),))

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


class _Way:
    """Watches an attack and keeps, for each sample, what c and a are unless they are the attack's end."""

    def __init__(self, y: Tensor, x: Tensor) -> None:
        self._y = y
        self._begin(x)

    def _begin(self, x_adv: Tensor) -> None:
        self._wrong = torch.zeros_like(self._y)  # (N,) how many images so far were wrong
        self._correct = self._friendly = x_adv

    def __call__(self, step: int, x_adv: Tensor, logits: Tensor) -> None:
        if step == 0:
            self._begin(x_adv.clone())
        friendly = self._wrong < 2
        self._wrong += logits.argmax(dim=1) != self._y
        self._correct = _where(self._wrong == 0, x_adv, self._correct)
        self._friendly = _where(friendly, x_adv, self._friendly)

    def correct(self, last: Tensor) -> Tensor:
        """c, with ``last`` (N, C_in, H, W) the end of the attack."""
        return _where(self._wrong == 0, last, self._correct)

    def friendly(self, last: Tensor) -> Tensor:
        """a, likewise."""
        return _where(self._wrong < 2, last, self._friendly)


def _where(samples: Tensor, images: Tensor, others: Tensor) -> Tensor:
    """``images`` of these samples (N,) bool, and the others'."""
    return torch.where(samples.view(-1, *[1] * (images.ndim - 1)), images, others)
