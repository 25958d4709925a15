"""Learning rates as a function of progress alone, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math

from fairtat.training.config import OptimConfig

__all__ = ["learning_rate"]

# One-cycle as in PyTorch's OneCycleLR (Smith and Topin, 2018, arXiv:1708.07120).
_RISE = 0.3  # share of the run
_START, _END = 1 / 25, 1 / 25e4  # of the peak


def learning_rate(optim: OptimConfig, epoch: float, epochs: int) -> float:
    """The learning rate after ``epoch`` of ``epochs``; 2.5 is half way through the third.

    constant: ``lr``. step: ``lr * gamma**(milestones passed)``, or with ``every`` its multiples passed, constant within
    an epoch. With w the epochs of the warm-up and ``s = (epoch - w) / (epochs - w)``, linear: ``lr * (1 - s)``; cosine:
    ``lr * (1 + cos(pi s)) / 2``. Before, each of these rises to its value by ``epoch / w``. onecycle: half a cosine
    wave from lr / 25 up to ``lr`` over the first 30% of the run, another down to lr / 250,000 over the rest.
    """
    lr, warmup = float(optim.lr), float(optim.warmup)
    if optim.schedule == "onecycle":
        share = epoch / epochs
        if share < _RISE:
            return _wave(lr * _START, lr, share / _RISE)
        return _wave(lr, lr * _END, (share - _RISE) / (1 - _RISE))
    rise = min(epoch / warmup, 1.0) if warmup else 1.0
    share = max(0.0, epoch - warmup) / (epochs - warmup)
    if optim.schedule == "cosine":
        return rise * _wave(lr, 0.0, share)
    if optim.schedule == "linear":
        return rise * lr * (1 - share)
    if optim.schedule == "step":
        whole = math.floor(epoch)
        if optim.every is not None:
            return rise * lr * float(optim.gamma) ** (whole // optim.every)
        return rise * lr * float(optim.gamma) ** sum(whole >= milestone * epochs for milestone in optim.milestones)
    return rise * lr


def _wave(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
