"""What a training step minimises, and the attack that it needs for that."""

from __future__ import annotations

from collections.abc import Callable

from fairtat.training.config import TrainConfig
from fairtat.training.objectives.adversarial_training import AdversarialTraining, FriendlyAdversarialTraining
from fairtat.training.objectives.base import Examples, Objective, ObjectiveValue
from fairtat.training.objectives.mart import Mart
from fairtat.training.objectives.trades import Trades

__all__ = [
    "AdversarialTraining",
    "Examples",
    "FriendlyAdversarialTraining",
    "Mart",
    "Objective",
    "ObjectiveValue",
    "Trades",
    "make_objective",
]

_OBJECTIVES: dict[str, Callable[[TrainConfig], Objective]] = {
    "at": AdversarialTraining,
    "trades": Trades,
    "fat": FriendlyAdversarialTraining,
    "mart": Mart,
}


def make_objective(config: TrainConfig) -> Objective:
    """The objective that the configuration names, with its attack."""
    return _OBJECTIVES[config.objective.name](config)
