"""Confusional spectral regularisation: weight on the confusions that carry the confusion matrix's spectral norm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fairtat import checks
from fairtat.data import Batch
from fairtat.data.stream import Data
from fairtat.fairness import ClassStats, FairTAT
from fairtat.logits import logits_of
from fairtat.training.config import TrainConfig
from fairtat.training.objectives.base import Examples, ObjectiveValue
from fairtat.training.objectives.examples import PGDObjective
from fairtat.training.objectives.losses import cross_entropy, divergence, weighted_mean

__all__ = ["ConfusionalSpectral", "spectral_weight"]

_SHRINK = 0.9  # what the label's logit is multiplied by before confusions are counted
_LOW, _HIGH = 0.01, 2.01  # of the weights


def spectral_weight(confusion: Tensor) -> Tensor:
    """The gradient of a confusion matrix's spectral norm, scaled to [0.01, 2.01] by its extremes.

    The largest singular value of the errors ``M[prediction, label]``, zero on the diagonal, has the gradient ``u v^T``,
    of its singular vectors. Without errors, where there is no such gradient, all weights are 1.01.

    Args:
        confusion: errors by [prediction, label], (C, C).

    Returns:
        (C, C) float64, by [prediction, label].
    """
    left, _, right = torch.linalg.svd(confusion.double())
    gradient = left[:, :1] * right[:1]
    low, high = gradient.amin(), gradient.amax()
    flat = (confusion == 0).all() | (high == low)
    share = (gradient - low) / torch.where(flat, 1.0, high - low)
    return torch.where(flat, (_LOW + _HIGH) / 2, _LOW + (_HIGH - _LOW) * share)


class ConfusionalSpectral(PGDObjective):
    """``mean_i (1 - s) w_i CE(f(x_i), y_i) + beta v_i KL(f(x_i) || f(a_i)) + s w_i G[k_i, y_i] CE(f(a_i), y_i)``.

    a are the adversarial examples of TRADES, G is the `spectral_weight` of their confusions, k_i the prediction on a_i,
    s = ``objective.csr``, w = `FairTAT.weight_for` and v = `FairTAT.robust_weight_for`. The last term is, but for a
    constant, the authors' divergence from the vector that is G at the label and 0 elsewhere. A sample counts as
    confused if its prediction is wrong after 10% of the label's logit have been taken off.

    The authors attack the whole training set once more before each epoch to count the confusions. Here they are those
    of the training attack in the epoch before, which costs nothing: the first epoch has s = 0, which is TRADES.

    Source: Jin et al., ICLR 2025 (arXiv:2501.13273), by its code.
    """

    def __init__(self, config: TrainConfig, data: Data) -> None:
        super().__init__(config, init="normal", divergence=True)
        self._share = float(config.objective.csr)
        self._confused = ClassStats(data.num_classes, device=data.device)
        self._weight: Tensor | None = None  # (C, C): G, once an epoch has been counted

    def loss(self, model: nn.Module, batch: Batch, examples: Examples, *, fair: FairTAT) -> ObjectiveValue:
        clean_logits = logits_of(model(batch.x))
        logits = logits_of(model(examples.x_adv))
        weight, share = fair.weight_for(batch.y), 0.0 if self._weight is None else self._share
        natural = cross_entropy(clean_logits, batch.y, self._label_smoothing)
        robust = self._beta * divergence(logits, clean_logits)
        loss = (1 - share) * weighted_mean(natural, weight) + weighted_mean(robust, fair.robust_weight_for(batch.y))
        if self._weight is not None:
            spectral = self._weight[logits.detach().argmax(dim=1), batch.y].float()
            loss = loss + share * weighted_mean(cross_entropy(logits, batch.y), weight, spectral)
        return ObjectiveValue(loss, logits.detach())

    def update(self, value: ObjectiveValue, y: Tensor) -> None:
        """As `LearningObjective.update`."""
        logits = value.logits.float()
        self._confused.update(logits.scatter(1, y[:, None], logits.gather(1, y[:, None]) * _SHRINK), y)

    def end_epoch(self, train: ClassStats) -> None:
        """As `LearningObjective.end_epoch`."""
        confusion = self._confused.all_reduce().confusion
        self._weight = spectral_weight(confusion.t() * (1 - torch.eye(len(confusion), device=confusion.device)))
        self._confused.reset()

    def state_dict(self) -> dict[str, Any]:
        return {"weight": None if self._weight is None else self._weight.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As `LearningObjective.load_state_dict`."""
        checks.state_keys("objective", state, ("weight",))
        weight, classes = state["weight"], self._confused.num_classes
        if weight is not None and (not isinstance(weight, Tensor) or weight.shape != (classes, classes)):
            raise ValueError(f"its weights are not a tensor of shape {(classes, classes)}")
        self._weight = None if weight is None else weight.to(self._confused.device, torch.float64, copy=True)
