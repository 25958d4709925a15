"""Robust distillation: a student that learns from a teacher's answers to clean images."""

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
from fairtat.training.objectives.teacher import Teacher
from fairtat.training.optim.schedule import learning_rate

__all__ = ["Absld", "Ard", "Rslad"]

_RANGE = (0.5, 5.0)  # of ABSLD's temperatures, as published


class _Distillation(PGDObjective):
    """What the students share: a teacher, whose identity is part of the run's state."""

    def __init__(self, config: TrainConfig, data: Data, **options: Any) -> None:
        super().__init__(config, **options)
        self._teacher = Teacher(config, data)

    def update(self, value: ObjectiveValue, y: Tensor) -> None:
        """As `LearningObjective.update`."""

    def end_epoch(self, train: ClassStats) -> None:
        """As `LearningObjective.end_epoch`."""

    def state_dict(self) -> dict[str, Any]:
        return {"teacher": self._teacher.digest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As `LearningObjective.load_state_dict`.

        Raises:
            ValueError: the state is that of a run with another teacher, or not one of this objective.
        """
        checks.state_keys("objective", state, tuple(self.state_dict()))
        if state["teacher"] != self._teacher.digest:
            raise ValueError("the weights of its teacher are not those in distill.weights")


class Ard(_Distillation):
    """``mean_i w_i (alpha T^2 / C KL(softmax(t(x_i) / T) || softmax(f(x_adv_i) / T)) + (1 - alpha) CE(f(x_i), y_i))``.

    t are the teacher's logits, T = ``distill.temperature`` and alpha = ``distill.alpha``; w is
    `FairTAT.robust_weight_for` in the first term and `FairTAT.weight_for` in the second, which with alpha = 1 needs no
    pass. The attack ascends the label's cross-entropy. The divergence is a mean over the C classes, as in the authors'
    code: a sum would be C times as large. With the class weights of `FairARD` this is Fair-ARD.

    Source: ARD: Goldblum et al., AAAI 2020 (arXiv:1905.09747); Fair-ARD: Yue et al., NeurIPS 2023.
    """

    def __init__(self, config: TrainConfig, data: Data) -> None:
        super().__init__(config, data)
        self._temperature = float(config.distill.temperature)
        self._alpha = float(config.distill.alpha)

    def attack(self, model: nn.Module, batch: Batch, *, fair: FairTAT, target: Tensor | None, seed: int) -> Examples:
        examples = super().attack(model, batch, fair=fair, target=target, seed=seed)
        return Examples(examples.x_adv, (self._teacher(batch.x),))

    def loss(self, model: nn.Module, batch: Batch, examples: Examples, *, fair: FairTAT) -> ObjectiveValue:
        (taught,) = examples.more
        logits, t = logits_of(model(examples.x_adv)), self._temperature
        distilled = t**2 * divergence(logits / t, taught / t) / taught.shape[1]
        loss = self._alpha * weighted_mean(distilled, fair.robust_weight_for(batch.y))
        if self._alpha < 1:
            natural = cross_entropy(logits_of(model(batch.x)), batch.y, self._label_smoothing)
            loss = loss + (1 - self._alpha) * weighted_mean(natural, fair.weight_for(batch.y))
        return ObjectiveValue(loss, logits.detach())


class Rslad(_Distillation):
    """``mean_i ((1 - n) v_i KL(p_i || softmax(f(x_adv_i))) + n w_i KL(q_i || softmax(f(x_i)))) / C``.

    p = q = softmax(t(x)), the teacher's answer to the clean image, n = ``distill.natural``, w = `FairTAT.weight_for`
    and v = `FairTAT.robust_weight_for`. The attack ascends the first divergence from a little Gaussian noise. The loss
    makes two passes, of the adversarial images and of the clean ones. Both divergences are means over the C classes, as
    in the authors' code. With the class weights of `FairARD` this is Fair-RSLAD.

    Source: Zi et al., ICCV 2021 (arXiv:2108.07969); Fair-RSLAD: Yue et al., NeurIPS 2023.
    """

    def __init__(self, config: TrainConfig, data: Data) -> None:
        super().__init__(config, data, init="normal", divergence=True)
        self._natural = float(config.distill.natural)

    def attack(self, model: nn.Module, batch: Batch, *, fair: FairTAT, target: Tensor | None, seed: int) -> Examples:
        robust, natural = self._answers(batch)
        made = self._examples(model, batch, fair=fair, target=target, seed=seed, reference=robust)
        return Examples(made.x_adv, (robust, natural))

    def loss(self, model: nn.Module, batch: Batch, examples: Examples, *, fair: FairTAT) -> ObjectiveValue:
        robust, natural = examples.more
        logits = logits_of(model(examples.x_adv))
        clean_logits = logits_of(model(batch.x))
        classes = logits.shape[1]
        loss = (1 - self._natural) / classes * weighted_mean(
            divergence(logits, robust), fair.robust_weight_for(batch.y)
        ) + self._natural / classes * weighted_mean(divergence(clean_logits, natural), fair.weight_for(batch.y))
        return ObjectiveValue(loss, logits.detach(), clean_logits.detach())

    def _answers(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(N, C) each: the teacher's logits that the adversarial and the clean images are to match."""
        taught = self._teacher(batch.x)
        return taught, taught


class Absld(Rslad):
    """`Rslad` with the teacher's answers sharpened or smoothed class by class, for adversarial and clean images apart.

    ``p_i = softmax(t(x_i) / T_{y_i})`` for the adversarial images, which the attack climbs too, and q with temperatures
    of its own. Both begin at 1. After an epoch, with ``L_c`` the mean cross-entropy that the student had on the class's
    adversarial (or clean) training images, and r = ``distill.temperature_rate`` times the learning rate's share of its
    highest::

        T_c <- clamp(T_c - r (L_c - mean L) / max |L - mean L|, 0.5, 5)

    so labels of hard classes grow sharper. A class without samples keeps its temperature.

    Two points of the published code are not copied. Its two scaled copies of the teacher's logits are one tensor, so
    that both are divided by the product of the temperatures. And its L_c are sums over a class, which assumes that all
    classes are of one size.

    Source: Zhao et al., NeurIPS 2024 (ABSLD), by its code.
    """

    def __init__(self, config: TrainConfig, data: Data) -> None:
        super().__init__(config, data)
        self._optim, self._epochs = config.optim, config.epochs
        self._rate = float(config.distill.temperature_rate)
        self._epoch = 0
        # (2, C): of the adversarial and of the clean images
        self._temperature = torch.ones(2, data.num_classes, dtype=torch.float64, device=data.device)
        self._clean = ClassStats(data.num_classes, device=data.device)

    def update(self, value: ObjectiveValue, y: Tensor) -> None:
        assert value.clean_logits is not None
        self._clean.update(value.clean_logits, y)

    def end_epoch(self, train: ClassStats) -> None:
        share = learning_rate(self._optim, self._epoch, self._epochs) / float(self._optim.lr)
        clean = self._clean.all_reduce()
        rows = zip(self._temperature, (train.loss_mean, clean.loss_mean), strict=True)
        self._temperature = torch.stack([_next_temperature(t, loss, self._rate * share) for t, loss in rows])
        self._clean.reset()
        self._epoch += 1

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"epoch": self._epoch, "temperature": self._temperature.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        temperature = state["temperature"]
        if not isinstance(temperature, Tensor) or temperature.shape != self._temperature.shape:
            raise ValueError(f"its temperatures are not a tensor of shape {tuple(self._temperature.shape)}")
        self._epoch = checks.integer("objective epoch", state["epoch"], low=0)
        self._temperature = temperature.to(self._temperature, copy=True)

    def _answers(self, batch: Batch) -> tuple[Tensor, Tensor]:
        robust, natural = self._temperature.float().index_select(1, batch.y)[..., None]
        taught = self._teacher(batch.x)
        return taught / robust, taught / natural


def _next_temperature(temperature: Tensor, loss: Tensor, rate: float) -> Tensor:
    """One epoch's move of the temperatures (C,) by the class losses (C,), NaN for absent classes."""
    gap = (loss - loss.nanmean()).nan_to_num(0.0)
    largest = gap.abs().amax()
    move = torch.where(largest > 0, rate * gap / largest, 0.0)
    return (temperature - move).clamp(*_RANGE)
