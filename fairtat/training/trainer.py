"""The training loop: an objective, the fairness rules, SGD, and nothing that waits for the device in a step."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fairtat.data import Splits, batches, joined, num_batches
from fairtat.data.augment import make_augment
from fairtat.data.batches import Batches, Order
from fairtat.data.stream import Data
from fairtat.engines.patient import settled
from fairtat.errors import UserError
from fairtat.fairness import ClassStats, WeightRule
from fairtat.seeds import derive
from fairtat.training.augment import make_batch_augment
from fairtat.training.config import TrainConfig, make_fairness, to_dict
from fairtat.training.distributed import StopVote, World
from fairtat.training.events import AveragedAccuracy, ClassAccuracy, EpochMetrics, Observer, StepProgress, numbers
from fairtat.training.objectives import LearningObjective, Objective, make_objective
from fairtat.training.optim.averaging import make_averaging
from fairtat.training.optim.parameters import freeze, frozen_norms, make_optimizer
from fairtat.training.optim.schedule import learning_rate
from fairtat.training.optim.step import TrainingStep
from fairtat.training.precision import settle_amp, settle_format
from fairtat.training.pseudo_labels import labels_digest
from fairtat.training.sampling import epoch_order
from fairtat.training.validation import Validation, overfitting, validate, validate_fgsm

__all__ = ["Interrupted", "Trainer", "TrainingDiverged"]


_LOG = logging.getLogger("fairtat")


class TrainingDiverged(UserError):
    """The training loss of a step, or the outputs on validation images after the last step, are not finite."""


class Interrupted(Exception):
    """A request to stop in the middle of an epoch, which is thrown away."""


class Trainer:
    """Trains ``model`` on ``splits``, both on the same device, one epoch per call.

    Order, starts and targets of an epoch depend on (seed, epoch, sample id) alone: not on the epochs that this process
    ran before, so a run can be resumed, nor on the batch or the process that a sample falls in. Random layers of the
    model's own draw from PyTorch's global generator, which each epoch seeds again.

    Args:
        config: what to do; the trainer's own has ``auto`` in amp and channels_last replaced, and in attack.engine, on a
            CPU, by eager: `train` asks the clock before.
        splits: the data; the training pass sees ``splits.train``, validation ``splits.val``, nothing sees
            ``splits.test``.
        model: maps (N, C_in, H, W) in [0, 1] to logits; trained in place.
        objective: what a step minimizes, in place of the configuration's.
        weights: the rule that weights classes, in place of the configuration's.
        world: the processes that train together, each with a `Trainer` of its own; by default there is one.
    """

    def __init__(
        self,
        config: TrainConfig,
        splits: Splits,
        model: nn.Module,
        *,
        objective: Objective | None = None,
        weights: WeightRule | None = None,
        world: World | None = None,
    ) -> None:
        self._world = world or World()
        self._device = splits.train.device
        config = settle_format(settle_amp(config, self._device), model, splits.train, self._world)
        # A run keeps to one engine: see `fairtat.training.engine`.
        engine = settled(config.attack.engine, self._device)
        config = replace(config, attack=replace(config.attack, engine=engine))  # type: ignore[arg-type]
        self.config = config
        self.splits = splits
        self.model = model
        self.epoch = 0  # finished epochs
        self._waited = 0.0
        self._pool = splits.train if splits.extra is None else joined(splits.train, splits.extra)
        self.fair = make_fairness(
            config,
            splits.train.num_classes,
            weights=weights,
            seed=derive(config.seed, "targets"),
            device=self._device,
        )
        if config.channels_last:
            model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._augment = make_augment(config.data.augment, pad=config.data.pad)
        freeze(config.optim, model)
        self._frozen_norms = frozen_norms(config.optim, model)
        self._optimizer = make_optimizer(config.optim, model)
        self._averaging = make_averaging(config.averaging, model)
        self._objective = objective or make_objective(config, splits.train)
        self._step = TrainingStep(
            config,
            model,
            self._optimizer,
            self.fair,
            self._world,
            self._device,
            objective=self._objective,
            augment=make_batch_augment(config.augment, splits.train.num_classes, splits.train.image_shape),
        )
        # The loss of each step, summed over this process's samples. One read per epoch finds a step that diverged.
        self._losses = torch.zeros(self.steps_per_epoch, dtype=torch.float64, device=self._device)

    @property
    def steps_per_epoch(self) -> int:
        return num_batches(len(self.splits.train), self.config.batch_size, drop_last=self.config.drop_last)

    @property
    def best_model(self) -> nn.Module:
        """What evaluation should use: the averaged weights where there are any."""
        return self.model if self._averaging is None else self._averaging.model

    def run_epoch(
        self, observer: Observer | None = None, should_stop: Callable[[], bool] | None = None
    ) -> EpochMetrics:
        """Train one epoch, validate, and set the targets, radii and weights of the next.

        Raises:
            TrainingDiverged: the loss of a step, or an output on a validation image, clean or attacked, is not finite;
                found after the pass that it happened in. Nothing has been adapted to such figures.
            Interrupted: ``should_stop`` returned true, on any process, between two steps.
        """
        started = time.perf_counter()
        vote = StopVote(should_stop, self._world)
        loss = self._train(observer or Observer(), vote)
        if vote.now():
            raise Interrupted
        self._world.align_buffers(self.model)
        plain = self._validate(self.model)
        names = self.splits.train.class_names
        val_robust = ClassAccuracy.of(plain.robust, names)
        val_fgsm = self._single_step(val_robust)
        averaged = self._average(val_robust.worst)

        lr = self._learning_rate(step=0)
        class_eps, target_weight, class_weight = self.fair.class_eps, self.fair.target_weight, self._class_weight()
        if self.fair.needs_validation:
            self.fair.observe_validation(plain.clean, plain.robust)
        self.fair.end_epoch()
        self.epoch += 1
        trained = self.fair.last
        assert trained is not None  # end_epoch has just set it
        if isinstance(self._objective, LearningObjective):
            self._objective.end_epoch(trained)
        return EpochMetrics(
            epoch=self.epoch,
            lr=lr,
            seconds=round(time.perf_counter() - started, 3),
            train_loss=loss,
            train_robust=ClassAccuracy.of(trained, names),
            train_reached=_reached(trained),
            val_clean=ClassAccuracy.of(plain.clean, names),
            val_robust=val_robust,
            class_eps=numbers(class_eps),
            target_weight=None if target_weight is None else numbers(_normalized(target_weight)),
            class_weight=None if class_weight is None else numbers(class_weight),
            averaged=averaged,
            data_seconds=round(self._waited, 3),
            val_fgsm=val_fgsm,
        )

    def train_steps(self) -> Iterator[StepProgress]:
        """Take the steps of the running epoch one by one: validation and the epoch's end are left to `run_epoch`."""
        self._losses.zero_()
        config, size = self.config, len(self.splits.train)
        start_seed = derive(config.seed, "starts", self.epoch)
        torch.manual_seed(derive(config.seed, "layers", self.epoch, self._world.rank))
        self.model.train()
        for layer in self._frozen_norms:
            layer.eval()  # the attack leaves such layers in that mode
        rule = self.fair.weight_rule
        order = epoch_order(
            self.splits.train,
            len(self._pool),
            batch_size=config.batch_size,
            seed=derive(config.seed, "draw", self.epoch),
            shares=None if rule is None else rule.class_shares,
            balance=float(config.data.balance),
            extra_share=float(config.data.extra_share),
        )
        drawn = self._batches(self._pool, order)
        for step, batch in enumerate(drawn):
            samples = min(config.batch_size, size - step * config.batch_size)
            self._losses[step] = self._step(
                batch, samples, lr=self._learning_rate(step), epoch=self.epoch, seed=start_seed
            )
            if self._averaging is not None:
                self._averaging.after_step(self.epoch)
            self._waited = drawn.waited
            yield StepProgress(self.epoch + 1, step + 1, self.steps_per_epoch, self.fair.stats)

    def _train(self, observer: Observer, stop: StopVote) -> float:
        """One pass over the training set; returns the mean loss. Reads from the device once, at its end."""
        if stop():
            raise Interrupted
        for progress in self.train_steps():
            observer.on_step(progress)
            if progress.step < progress.steps and stop():
                raise Interrupted
        size = len(self.splits.train)
        samples = min(size, self.steps_per_epoch * self.config.batch_size)
        losses = self._world.sum(self._losses).cpu()
        diverged = losses.isfinite().logical_not().nonzero()
        if len(diverged):
            step = int(diverged[0])
            raise self._diverged(step + 1, f"the training loss is {float(losses[step])}")
        return float(losses.sum()) / samples

    def _learning_rate(self, step: int) -> float:
        return learning_rate(self.config.optim, self.epoch + step / self.steps_per_epoch, self.config.epochs)

    def _validate(self, model: nn.Module) -> Validation:
        seed = derive(self.config.seed, "validation")
        validation = validate(model, self.splits.val, self.config, seed=seed, world=self._world)
        for images, stats in zip(("validation images", "attacked validation images"), validation, strict=True):
            nonfinite = int(stats.nonfinite.sum())
            if nonfinite:
                what = f"the outputs on {nonfinite} of {int(stats.count.sum())} {images} are not finite"
                raise self._diverged(self.steps_per_epoch, what)
        return validation

    def _single_step(self, robust: ClassAccuracy) -> ClassAccuracy | None:
        """Validation under one step, where it is asked for, and the alarm if it and ``robust`` are far apart."""
        config = self.config
        if not (config.attack.steps == 1 if config.eval.fgsm == "auto" else config.eval.fgsm):
            return None
        stats = validate_fgsm(self.model, self.splits.val, config, world=self._world)
        fgsm = ClassAccuracy.of(stats, self.splits.train.class_names)
        if overfitting(fgsm.average, robust.average) and self._world.main:
            _LOG.warning(
                "warning: epoch %d: catastrophic overfitting: validation accuracy is %.3f under a single step and %.3f "
                "under PGD-%d; attack.noise 2 (N-FGSM) or more attack.steps prevent it",
                self.epoch + 1, fgsm.average, robust.average, config.eval.steps,
            )  # fmt: skip
        return fgsm

    def _average(self, worst_robust: float) -> AveragedAccuracy | None:
        if self._averaging is None:
            return None
        self._averaging.after_epoch(self.epoch, worst_robust)
        self._averaging.estimate_batchnorm(self._images())
        self._world.align_buffers(self._averaging.model)
        names = self.splits.train.class_names
        clean, robust = self._validate(self._averaging.model)
        return AveragedAccuracy(ClassAccuracy.of(clean, names), ClassAccuracy.of(robust, names))

    def _images(self) -> Iterator[Tensor]:
        """What BatchNorm's statistics are estimated from: the training images as they were drawn for the epoch."""
        return (batch.x for batch in self._batches(self.splits.train) if len(batch.y))

    def _batches(self, data: Data, order: Order | None = None) -> Batches:
        """This process's part of the running epoch's batches of the training images, or of those in ``order``."""
        return batches(
            data,
            self.config.batch_size,
            seed=derive(self.config.seed, "order", self.epoch),
            drop_last=self.config.drop_last,
            augment=self._augment,
            shard=self._world.shard,
            order=order,
        )

    def _class_weight(self) -> Tensor | None:
        return self.fair.weight_for(torch.arange(self.fair.num_classes, device=self.fair.device))

    def _diverged(self, step: int, what: str) -> TrainingDiverged:
        return TrainingDiverged(
            f"epoch {self.epoch + 1}, step {step} of {self.steps_per_epoch}: {what}; "
            f"a lower optim.lr (now {self.config.optim.lr}) may help"
        )

    def state_dict(self) -> dict[str, Any]:
        """All that the next epoch depends on: a trainer that loads it continues as this one would have."""
        return {
            **self.description(),
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "fair": self.fair.state_dict(),
            "averaging": None if self._averaging is None else self._averaging.state_dict(),
            "scaler": self._step.precision.state_dict(),
            "objective": self._objective.state_dict() if isinstance(self._objective, LearningObjective) else None,
            "extra": None if self.splits.extra is None else labels_digest(self.splits.extra),
        }

    def best_state_dict(self, score: float) -> dict[str, Any]:
        """`best_model` alone, with what is needed to build it again."""
        return {**self.description(), "model": self.best_model.state_dict(), "score": score}

    def description(self) -> dict[str, Any]:
        data = self.splits.train
        return {
            "epoch": self.epoch,
            "config": to_dict(self.config),
            "class_names": list(data.class_names),
            "image_shape": list(data.image_shape),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the epoch in which `state_dict` was taken, with the configuration of this trainer."""
        extra = self.splits.extra
        if extra is not None and state.get("extra") != labels_digest(extra):
            raise ValueError(f"{extra.name}: images or (pseudo-)labels are not those that the run began with")
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.fair.load_state_dict(state["fair"])
        if self._averaging is not None:
            self._averaging.load_state_dict(state["averaging"])
        self._step.precision.load_state_dict(state["scaler"])
        if isinstance(self._objective, LearningObjective):
            self._objective.load_state_dict(state["objective"])
        self.epoch = state["epoch"]


def _reached(stats: ClassStats) -> float | None:
    targeted = int(stats.target_count.sum())
    return int(stats.reached.sum()) / targeted if targeted else None


def _normalized(weight: Tensor) -> Tensor:
    """Target weights as the probabilities that they give before the own label is left out."""
    return weight / weight.sum(dim=-1, keepdim=True)
