"""One optimizer step: attack, loss, gradients over all parts of the batch, and the update."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from fairtat.data import Batch
from fairtat.fairness import FairTAT
from fairtat.training.augment import BatchAugment
from fairtat.training.config import TrainConfig
from fairtat.training.distributed import World
from fairtat.training.objectives import (
    Examples,
    LearningObjective,
    Objective,
    ObjectiveValue,
    make_objective,
)
from fairtat.training.optim.awp import make_awp
from fairtat.training.optim.parameters import SCALE
from fairtat.training.precision import Precision

__all__ = ["TrainingStep"]


class TrainingStep:
    """Takes steps with ``model``, whose parameters ``optimizer`` holds.

    A global batch of n samples may come in parts: one per process, and ``accumulate`` of each of these. The gradient is
    that of the mean over the n samples, as if there were one part. Two things see each part separately: BatchNorm and
    weight perturbation. ``objective`` replaces the one of the configuration; ``augment`` sees the process's
    part of a batch as a whole.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        fair: FairTAT,
        world: World,
        device: torch.device,
        *,
        objective: Objective | None = None,
        augment: BatchAugment | None = None,
    ) -> None:
        self.precision = Precision(config, device)
        self._config = config
        self._model = model  # the inner one: what is attacked and saved
        self._optimizer = optimizer
        self._fair = fair
        self._world = world
        self._objective = objective or make_objective(config)
        self._augment = augment
        self._awp = make_awp(config.awp, model)
        self._clip = None if config.optim.clip is None else float(config.optim.clip)
        trained: Any = torch.compile(model) if config.compile else model
        self._wrapped = world.wrap(trained, device)

    def __call__(self, batch: Batch, samples: int, *, lr: float, epoch: int, seed: int) -> Tensor:
        """Take a step with this process's part of a batch of ``samples`` over all processes.

        Args:
            batch: of at least one sample, unless ``samples`` is smaller than the number of processes.
            lr: learning rate of this step.
            epoch: finished epochs.
            seed: of the attack's starts.

        Returns:
            () sum of the loss over this process's samples, on the device and without a graph.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = lr * group.get(SCALE, 1.0)  # which states of an earlier fairtat do not have
        self._optimizer.zero_grad(set_to_none=True)
        total = batch.x.new_zeros(())
        # With a sample for each process, DistributedDataParallel averages during the last part's backward pass.
        averaged_in_backward = samples >= self._world.size
        batch, labels = (batch, None) if self._augment is None else self._augment(batch)
        parts = batch.parts(self._config.accumulate)
        mixed = [None] * len(parts) if labels is None else labels.tensor_split(len(parts))
        for number, (part, shares) in enumerate(zip(parts, mixed, strict=True), start=1):
            with self._averaging(averaged_in_backward and number == len(parts)):
                weight = len(part.y) * self._world.size / samples
                total += self._backward(part, shares, weight, epoch, seed) * len(part.y)
        if not averaged_in_backward:
            self._world.average_gradients([p for p in self._model.parameters() if p.requires_grad])
        self.precision.step(self._optimizer, self._clip)
        return total

    def _backward(self, part: Batch, labels: Tensor | None, weight: float, epoch: int, seed: int) -> Tensor:
        """Add ``weight`` times the gradient of the part's mean loss, count its predictions, and return that loss."""
        if self._config.channels_last:
            part = part._replace(x=part.x.contiguous(memory_format=torch.channels_last))
        target = self._fair.sample_targets(part.y, part.ids)
        examples = self._objective.attack(self._model, part, fair=self._fair, target=target, seed=seed)
        if labels is not None:
            examples = examples._replace(labels=labels)
        before: list[ObjectiveValue] = []  # at the weights as they are, where they are perturbed
        with self._perturbed(part, examples, weight, epoch, before):
            value = self._value(self._wrapped, part, examples)
            self._weighted(value.loss, weight).backward()
        loss, value = value.loss.detach(), (before or [value])[0]
        y, own = part.y, part.own
        if own is not None:  # extra images, whose labels may be wrong, say nothing about the classes
            clean = value.clean_logits
            value = value._replace(logits=value.logits[:own], clean_logits=None if clean is None else clean[:own])
            y, target = y[:own], None if target is None else target[:own]
        if isinstance(self._objective, LearningObjective):
            self._objective.update(value, y)
        # Of a mixed batch not every sample has been attacked towards its target: the counts are those of the labels.
        self._fair.update(value.logits, y, target if self._config.fairness.targeted == "all" else None)
        return loss

    def _value(self, model: nn.Module, part: Batch, examples: Examples) -> ObjectiveValue:
        with self.precision.autocast():
            return self._objective.loss(model, part, examples, fair=self._fair)

    def _weighted(self, loss: Tensor, weight: float) -> Tensor:
        return self.precision.scaled(loss if weight == 1.0 else loss * weight)

    def _perturbed(
        self, part: Batch, examples: Examples, weight: float, epoch: int, before: list[ObjectiveValue]
    ) -> AbstractContextManager[None]:
        """Statistics are those of the weights: what the pass that finds the perturbation gives goes to ``before``."""
        awp = self._awp
        if awp is None or epoch < self._config.awp.begin:
            return nullcontext()

        def loss() -> Tensor:
            value = self._value(self._model, part, examples)
            before.append(value._replace(loss=value.loss.detach()))
            return self._weighted(value.loss, weight)

        return awp.perturbed(loss)

    def _averaging(self, wanted: bool) -> AbstractContextManager[None]:
        if not wanted and isinstance(self._wrapped, nn.parallel.DistributedDataParallel):
            no_sync: AbstractContextManager[None] = self._wrapped.no_sync()
            return no_sync
        return nullcontext()
