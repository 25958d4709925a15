"""What a training step minimises, and the attack that it needs for that."""

from __future__ import annotations

from collections.abc import Callable

from fairtat.errors import UserError
from fairtat.extension import import_code, names_code
from fairtat.training.config import TrainConfig
from fairtat.training.objectives.adversarial_training import AdversarialTraining, FriendlyAdversarialTraining
from fairtat.training.objectives.base import Examples, Objective, ObjectiveValue
from fairtat.training.objectives.bat import BalanceAdversarialTraining
from fairtat.training.objectives.examples import PGDObjective
from fairtat.training.objectives.mart import Mart
from fairtat.training.objectives.trades import Trades

__all__ = [
    "AdversarialTraining",
    "BalanceAdversarialTraining",
    "Examples",
    "FriendlyAdversarialTraining",
    "Mart",
    "Objective",
    "ObjectiveValue",
    "PGDObjective",
    "Trades",
    "make_objective",
]

_OBJECTIVES: dict[str, Callable[[TrainConfig], Objective]] = {
    "at": AdversarialTraining,
    "trades": Trades,
    "fat": FriendlyAdversarialTraining,
    "mart": Mart,
    "bat": BalanceAdversarialTraining,
}


def make_objective(config: TrainConfig) -> Objective:
    """The objective that the configuration names, with its attack.

    Raises:
        UserError: no such code, or what it returns is no `Objective`.
    """
    name, options = config.objective.name, config.objective.options
    if not names_code(name):
        return _OBJECTIVES[name](config)
    function = import_code("objective", name)
    try:
        made = function(config, **options)
    except TypeError as error:
        raise UserError(f"objective {name!r} cannot be made with options {options}: {error}") from error
    if not isinstance(made, Objective):
        raise UserError(f"objective {name!r} returned a {type(made).__name__}; expected one with attack() and loss()")
    return made
