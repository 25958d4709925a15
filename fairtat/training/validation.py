"""Class-wise accuracy on held-out data while training runs: cheap figures to watch, not the final judgment."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from fairtat.attacks import fast_pgd
from fairtat.data import batches
from fairtat.data.stream import Data
from fairtat.fairness import ClassStats
from fairtat.logits import logits_of
from fairtat.training.config import TrainConfig
from fairtat.training.distributed import World

__all__ = ["Validation", "validate"]


class Validation(NamedTuple):
    clean: ClassStats
    robust: ClassStats


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
            x = batch.x.contiguous(memory_format=torch.channels_last) if config.channels_last else batch.x
            with torch.no_grad():
                clean.update(logits_of(model(x)), batch.y)
            result = fast_pgd(
                model,
                x,
                batch.y,
                eps=float(eps),
                step_size=float(step_size),
                steps=settings.steps,
                norm=config.attack.norm,
                restarts=settings.restarts,
                seed=seed,
                sample_ids=batch.ids,
                backend=config.attack.backend,
                engine=config.attack.engine,
                engine_check=config.attack.engine_check,
                check=False,
                return_info=True,
            )
            robust.update(result.logits, batch.y)
    finally:
        for module, training in modes:
            module.training = training
    if world.size > 1:
        clean.all_reduce()
        robust.all_reduce()
    return Validation(clean, robust)
