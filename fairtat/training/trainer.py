"""The training loop: an objective, the fairness rules, SGD, and nothing that waits for the device in a step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fairtat.data import Splits, batches, num_batches
from fairtat.errors import UserError
from fairtat.fairness import ClassStats
from fairtat.training.config import TrainConfig, make_fairness
from fairtat.training.config_io import to_dict
from fairtat.training.events import Observer, StepProgress
from fairtat.training.metrics import ClassAccuracy, EpochMetrics, numbers
from fairtat.training.objectives import make_objective
from fairtat.training.schedule import learning_rate
from fairtat.training.seeds import derive
from fairtat.training.validation import validate

__all__ = ["Interrupted", "Trainer", "TrainingDiverged"]


class TrainingDiverged(UserError):
    """The loss or the validation logits of an epoch are not finite."""


class Interrupted(Exception):
    """Somebody asked to stop in the middle of an epoch, which is thrown away."""


class Trainer:
    """Trains ``model`` on ``splits``, both on the same device, one epoch a call.

    Order, starts and targets of an epoch depend on (seed, epoch, sample id) alone: not on the epochs that this process
    ran before, so a run can be resumed, nor on the batch that a sample falls in.

    Args:
        config: what to do.
        splits: the data; `train_epoch` sees ``splits.train``, validation ``splits.val``, nothing sees ``splits.test``.
        model: maps (N, C_in, H, W) in [0, 1] to logits; trained in place.
    """

    def __init__(self, config: TrainConfig, splits: Splits, model: nn.Module) -> None:
        self.config = config
        self.splits = splits
        self.model = model
        self.epoch = 0  # finished epochs
        self.fair = make_fairness(
            config, splits.train.num_classes, seed=derive(config.seed, "targets"), device=splits.train.device
        )
        self._objective = make_objective(config)
        self._optimizer = torch.optim.SGD(
            model.parameters(),
            lr=float(config.optim.lr),
            momentum=float(config.optim.momentum),
            weight_decay=float(config.optim.weight_decay),
            nesterov=config.optim.nesterov,
        )

    @property
    def steps_per_epoch(self) -> int:
        return num_batches(len(self.splits.train), self.config.batch_size, drop_last=self.config.drop_last)

    def run_epoch(
        self, observer: Observer | None = None, should_stop: Callable[[], bool] | None = None
    ) -> EpochMetrics:
        """Train one epoch, validate, and set the targets and radii of the next.

        Raises:
            TrainingDiverged: the loss is not finite; checked once, at the end of the epoch.
            Interrupted: ``should_stop`` returned true between two steps.
        """
        stop = should_stop or (lambda: False)
        started = time.perf_counter()
        lr = learning_rate(self.config.optim, self.epoch, self.config.epochs)
        loss = self._train(lr, observer or Observer(), stop)
        if stop():
            raise Interrupted
        validation = validate(self.model, self.splits.val, self.config, seed=derive(self.config.seed, "validation"))
        self._check_finite(loss, validation.clean)

        class_eps, target_weight = self.fair.class_eps, self.fair.target_weight
        self.fair.end_epoch()
        self.epoch += 1
        trained = self.fair.last
        assert trained is not None  # end_epoch has just set it
        names = self.splits.train.class_names
        return EpochMetrics(
            epoch=self.epoch,
            lr=lr,
            seconds=round(time.perf_counter() - started, 3),
            train_loss=loss,
            train_robust=ClassAccuracy.of(trained, names),
            train_reached=_reached(trained),
            val_clean=ClassAccuracy.of(validation.clean, names),
            val_robust=ClassAccuracy.of(validation.robust, names),
            class_eps=numbers(class_eps),
            target_weight=None if target_weight is None else numbers(_normalised(target_weight)),
        )

    def _train(self, lr: float, observer: Observer, stop: Callable[[], bool]) -> float:
        """One pass over the training part; returns the mean loss, the pass's only read from the device."""
        config, model, fair = self.config, self.model, self.fair
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        start_seed = derive(config.seed, "starts", self.epoch)
        order_seed = derive(config.seed, "order", self.epoch)
        loss_sum = torch.zeros((), dtype=torch.float64, device=self.splits.train.device)
        samples = 0
        model.train()
        drawn = batches(self.splits.train, config.batch_size, seed=order_seed, drop_last=config.drop_last)
        for step, batch in enumerate(drawn, start=1):
            if stop():
                raise Interrupted
            target = fair.sample_targets(batch.y, batch.ids)
            value = self._objective(model, batch, target=target, eps=fair.eps_for(batch.y), seed=start_seed)
            self._optimizer.zero_grad(set_to_none=True)
            value.loss.backward()
            self._optimizer.step()
            fair.update(value.logits, batch.y, target)
            loss_sum += value.loss.detach() * len(batch.y)
            samples += len(batch.y)
            observer.on_step(StepProgress(self.epoch + 1, step, self.steps_per_epoch, fair.stats))
        return float(loss_sum) / samples

    def _check_finite(self, loss: float, clean: ClassStats) -> None:
        if not math.isfinite(loss):
            what = f"the training loss is {loss}"
        elif int(clean.nonfinite.sum()) > 0:
            what = "the model's outputs are no longer finite"
        else:
            return
        raise TrainingDiverged(
            f"epoch {self.epoch + 1}: {what}; a lower optim.lr (now {self.config.optim.lr}) may help"
        )

    def state_dict(self) -> dict[str, Any]:
        """All that the next epoch depends on: a trainer that loads it goes on as this one would have."""
        data = self.splits.train
        cuda = data.device.type == "cuda"
        return {
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "fair": self.fair.state_dict(),
            "rng": {
                "cpu": torch.get_rng_state(),
                "cuda": torch.cuda.get_rng_state(data.device) if cuda else None,
            },
            "config": to_dict(self.config),
            "class_names": list(data.class_names),
            "image_shape": list(data.image_shape),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the epoch in which `state_dict` was taken, with the configuration of this trainer."""
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.fair.load_state_dict(state["fair"])
        torch.set_rng_state(state["rng"]["cpu"].cpu())
        if state["rng"]["cuda"] is not None and self.splits.train.device.type == "cuda":
            torch.cuda.set_rng_state(state["rng"]["cuda"].cpu(), self.splits.train.device)
        self.epoch = state["epoch"]


def _reached(stats: ClassStats) -> float | None:
    targeted = int(stats.target_count.sum())
    return int(stats.reached.sum()) / targeted if targeted else None


def _normalised(weight: Tensor) -> Tensor:
    """Target weights as the probabilities that they stand for before the own label is left out."""
    return weight / weight.sum(dim=-1, keepdim=True)
