"""Class-wise accuracy on held-out data while training runs: cheap figures to watch, not the final judgment."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fairtat.attacks import AttackResult, fast_pgd
from fairtat.data import Batch, batches
from fairtat.data.stream import Data
from fairtat.fairness import ClassStats
from fairtat.logits import logits_of
from fairtat.training.config import TrainConfig
from fairtat.training.distributed import World

__all__ = ["Validation", "overfitting", "validate", "validate_fgsm"]


class Validation(NamedTuple):
    clean: ClassStats
    robust: ClassStats


def overfitting(fgsm: float, pgd: float) -> bool:
    """Whether two accuracies on the same images show catastrophic overfitting: what resists one step falls to several.

    A robust model loses a few points from FGSM to PGD; one that has overfitted to single steps keeps next to nothing.

    Source: Wong, Rice and Kolter, ICLR 2020 (arXiv:2001.03994).
    """
    return pgd < fgsm / 2 and fgsm - pgd >= 0.25


def validate_fgsm(model: nn.Module, data: Data, config: TrainConfig, *, world: World | None = None) -> ClassStats:
    """Accuracy of each class under one untargeted step of the whole radius from the image itself, as `validate`."""
    world = world or World()
    eps = float(config.attack.eps if config.eval.eps is None else config.eval.eps)
    stats = ClassStats(data.num_classes, device=data.device)
    for batch in batches(data, config.eval.batch_size, shard=world.shard):
        if len(batch.y):
            stats.update(_attack(model, batch, config, eps=eps, step_size=eps, steps=1, init="zero").logits, batch.y)
    return stats.all_reduce() if world.size > 1 else stats


def validate(model: nn.Module, data: Data, config: TrainConfig, *, seed: int, world: World | None = None) -> Validation:
    """Clean and untargeted PGD accuracy of each class, in eval mode; the model's modes are left as they were.

    The attack has the same radius for every class and, with the same ``seed``, the same starts in every epoch, so
    that epochs and methods can be compared. It runs in float32 also where training does not. Each process of ``world``
    counts its part of the data, and all get the sums.
    """
    world = world or World()
    settings = config.eval
    eps = config.attack.eps if settings.eps is None else settings.eps
    step_size = config.attack.step_size if settings.step_size is None else settings.step_size
    clean = ClassStats(data.num_classes, device=data.device)
    robust = ClassStats(data.num_classes, device=data.device)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        for batch in batches(data, settings.batch_size, shard=world.shard):
            if not len(batch.y):
                continue
            with torch.no_grad():
                clean.update(logits_of(model(_images(batch, config))), batch.y)
            result = _attack(
                model,
                batch,
                config,
                eps=float(eps),
                step_size=float(step_size),
                steps=settings.steps,
                restarts=settings.restarts,
                seed=seed,
            )
            robust.update(result.logits, batch.y)
    finally:
        for module, training in modes:
            module.training = training
    if world.size > 1:
        clean.all_reduce()
        robust.all_reduce()
    return Validation(clean, robust)


def _images(batch: Batch, config: TrainConfig) -> Tensor:
    return batch.x.contiguous(memory_format=torch.channels_last) if config.channels_last else batch.x


def _attack(model: nn.Module, batch: Batch, config: TrainConfig, **options: Any) -> AttackResult:
    """Untargeted, in eval mode; what is not given is as in training."""
    attack = config.attack
    result: AttackResult = fast_pgd(
        model,
        _images(batch, config),
        batch.y,
        sample_ids=batch.ids,
        backend=attack.backend,
        check=False,
        return_info=True,
        **attack.shared_options,
        **options,
    )
    return result
