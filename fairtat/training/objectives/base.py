"""What the trainer asks of an objective."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor, nn

from fairtat.data import Batch
from fairtat.fairness import ClassStats, FairTAT

__all__ = ["Examples", "LearningObjective", "Objective", "ObjectiveValue"]


class Examples(NamedTuple):
    """What an objective's attack hands on to its loss."""

    x_adv: Tensor  # (N, C_in, H, W) like the batch's images
    more: tuple[Tensor, ...] = ()  # (N, ...) each; what they are, the objective knows
    labels: Tensor | None = None  # (N, C) label distributions of images that the trainer has mixed; None: the batch's y


class ObjectiveValue(NamedTuple):
    """The loss of a batch, and the adversarial logits that the class statistics count."""

    loss: Tensor  # () mean over the batch, with a graph to the parameters
    logits: Tensor  # (N, C) of the adversarial examples, detached
    clean_logits: Tensor | None = None  # (N, C) of the clean images, detached, where an objective learns from them


@runtime_checkable
class Objective(Protocol):
    """A loss of a batch. It decides what its attack maximizes, so each objective runs its own.

    The two halves are apart because the trainer treats them differently: the attack has a precision and an engine of
    its own, while the loss runs under the trainer's autocast, wrappers and weight perturbation, perhaps more than once.
    """

    def attack(self, model: nn.Module, batch: Batch, *, fair: FairTAT, target: Tensor | None, seed: int) -> Examples:
        """Adversarial examples of a batch; the model is left as it was found, and a wrapper's inner module attacked.

        Args:
            model: maps (N, C_in, H, W) in [0, 1] to logits (N, C).
            fair: the rules that give each sample its radius and step size.
            target: (N,) int64 classes to move towards, or None to move away from the label.
            seed: of the attack's starts, together with the batch's sample ids.

        Raises:
            ValueError: the attack's loss needs more classes than the model has.
        """

    def loss(self, model: nn.Module, batch: Batch, examples: Examples, *, fair: FairTAT) -> ObjectiveValue:
        """What a step minimizes, by passes of the model as it is (in train mode, where it is trained).

        Args:
            model: the one that was attacked, or the same weights in another wrapper.
            examples: what `attack` made of the batch.
            fair: the rules that give each sample its weights.
        """


@runtime_checkable
class LearningObjective(Protocol):
    """What an `Objective` has beside, whose loss follows what earlier epochs have shown."""

    def update(self, value: ObjectiveValue, y: Tensor) -> None:
        """Take note of a batch that has been trained on: what `loss` gave for labels y (N,) int64."""

    def end_epoch(self, train: ClassStats) -> None:
        """Learn from the epoch that ends. With several processes all call it.

        Args:
            train: statistics of the epoch's adversarial examples, over all processes.
        """

    def state_dict(self) -> dict[str, Any]:
        """What the epochs have left, which torch.load(weights_only=True) reads."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on as the objective that made ``state`` between two epochs would have, to the same bits.

        Raises:
            TypeError, ValueError: the state is not one of this objective.
        """
