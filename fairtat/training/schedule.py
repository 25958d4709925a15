"""Learning rates as a function of the epoch alone, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math

from fairtat.training.config import OptimConfig

__all__ = ["learning_rate"]


def learning_rate(optim: OptimConfig, epoch: int, epochs: int) -> float:
    """The learning rate of epoch ``epoch`` (from 0) of ``epochs``.

    constant: ``lr``; step: ``lr * gamma**(milestones passed)``; cosine: ``lr * (1 + cos(pi * epoch / epochs)) / 2``.
    """
    if optim.schedule == "constant":
        return float(optim.lr)
    if optim.schedule == "cosine":
        return optim.lr * (1 + math.cos(math.pi * epoch / epochs)) / 2
    passed = sum(epoch >= share * epochs for share in optim.milestones)
    return optim.lr * optim.gamma**passed
