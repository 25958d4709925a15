"""What a training step minimises, and the attack that it needs for that."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch.nn.functional as F
from torch import Tensor, nn

from fairtat.attacks import fast_pgd, fast_targeted_pgd
from fairtat.data import Batch
from fairtat.training.config import AttackConfig, TrainConfig
from fairtat.training.outputs import logits_of

__all__ = ["AdversarialTraining", "Objective", "ObjectiveValue", "make_objective"]


class ObjectiveValue(NamedTuple):
    """The loss of a batch, and the adversarial logits that the class statistics count."""

    loss: Tensor  # () with a graph to the parameters
    logits: Tensor  # (N, C) of the adversarial examples, detached


class Objective(Protocol):
    """A loss of a batch. It decides what its attack maximises, so each objective runs its own."""

    def __call__(
        self, model: nn.Module, batch: Batch, *, target: Tensor | None, eps: Tensor, seed: int
    ) -> ObjectiveValue:
        """The loss in training mode.

        Args:
            target: (N,) int64 classes to move towards, or None to move away from the label.
            eps: (N,) float32 radii.
            seed: of the attack's starts, together with the batch's sample ids.
        """


class AdversarialTraining:
    """``CE(model(x_adv), y)``: Madry et al., ICLR 2018 (arXiv:1706.06083), targeted or not."""

    def __init__(self, attack: AttackConfig) -> None:
        self._attack = attack

    def __call__(
        self, model: nn.Module, batch: Batch, *, target: Tensor | None, eps: Tensor, seed: int
    ) -> ObjectiveValue:
        x_adv = _attack(self._attack, model, batch, target=target, eps=eps, seed=seed)
        logits = logits_of(model(x_adv))
        return ObjectiveValue(F.cross_entropy(logits.float(), batch.y), logits.detach())


def _attack(
    config: AttackConfig, model: nn.Module, batch: Batch, *, target: Tensor | None, eps: Tensor, seed: int
) -> Tensor:
    """Adversarial examples of a batch. ``check=False``: the data were checked when they were loaded."""
    options: dict[str, Any] = {
        "eps": eps,
        "step_size": float(config.step_size),
        "steps": config.steps,
        "norm": config.norm,
        "loss": config.loss,
        "init": config.init,
        "bn_mode": config.bn_mode,
        "restarts": config.restarts,
        "backend": config.backend,
        "engine": config.engine,
        "seed": seed,
        "sample_ids": batch.ids,
        "check": False,
    }
    if target is None:
        x_adv = fast_pgd(model, batch.x, batch.y, **options)
    else:
        x_adv = fast_targeted_pgd(model, batch.x, target, y=batch.y, **options)
    assert isinstance(x_adv, Tensor)  # return_info=False
    return x_adv


def make_objective(config: TrainConfig) -> Objective:
    """The objective that the configuration names."""
    return {"at": AdversarialTraining}[config.objective](config.attack)
