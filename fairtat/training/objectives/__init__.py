"""What a training step minimizes, and the attack that it needs for that."""

from __future__ import annotations

from collections.abc import Callable

from fairtat.data.stream import Data
from fairtat.errors import UserError
from fairtat.extension import import_code, names_code
from fairtat.training.config import TrainConfig
from fairtat.training.objectives.adversarial_training import AdversarialTraining, FriendlyAdversarialTraining
from fairtat.training.objectives.base import Examples, LearningObjective, Objective, ObjectiveValue
from fairtat.training.objectives.bat import BalanceAdversarialTraining
from fairtat.training.objectives.distillation import Absld, Ard, Rslad
from fairtat.training.objectives.examples import PGDObjective
from fairtat.training.objectives.ham import HardExampleMining
from fairtat.training.objectives.mart import Mart
from fairtat.training.objectives.spectral import ConfusionalSpectral
from fairtat.training.objectives.taet import AdversarialEqualization
from fairtat.training.objectives.trades import Trades

__all__ = [
    "Absld",
    "AdversarialEqualization",
    "AdversarialTraining",
    "Ard",
    "BalanceAdversarialTraining",
    "ConfusionalSpectral",
    "Examples",
    "FriendlyAdversarialTraining",
    "HardExampleMining",
    "LearningObjective",
    "Mart",
    "Objective",
    "ObjectiveValue",
    "PGDObjective",
    "Rslad",
    "Trades",
    "make_objective",
]

_OBJECTIVES: dict[str, Callable[[TrainConfig], Objective]] = {
    "at": AdversarialTraining,
    "trades": Trades,
    "fat": FriendlyAdversarialTraining,
    "mart": Mart,
    "bat": BalanceAdversarialTraining,
    "ham": HardExampleMining,
    "taet": AdversarialEqualization,
}
# These are built for the classes, shape and device of the training images.
_FOR_DATA: dict[str, Callable[[TrainConfig, Data], Objective]] = {
    "csr": ConfusionalSpectral,
    "ard": Ard,
    "rslad": Rslad,
    "absld": Absld,
}


def make_objective(config: TrainConfig, data: Data | None = None) -> Objective:
    """The objective that the configuration names, with its attack.

    Args:
        config: the experiment.
        data: the training images; csr and the objectives with a teacher need them.

    Raises:
        UserError: no such code, what it returns is not an `Objective`, or a teacher that cannot be loaded.
    """
    name, options = config.objective.name, config.objective.options
    if name in _FOR_DATA:
        assert data is not None
        return _FOR_DATA[name](config, data)
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
