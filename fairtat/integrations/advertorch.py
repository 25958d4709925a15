"""advertorch's `LinfPGDAttack`. Its last release (0.2.3) does not import beside PyTorch 2, so nothing is subclassed.

Source: Ding et al. 2019, arXiv:1902.07623.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fairtat.engines.model.state import Model
from fairtat.integrations.peer import attack, obstacle

__all__ = ["LinfPGDAttack"]


def _bound(name: str, value: float | Tensor) -> float:
    if not isinstance(value, Tensor):
        return value
    least, most = torch.stack(torch.aminmax(value)).tolist()
    if least != most:
        raise ValueError(f"{name} must be the same for all pixels, got values from {least} to {most}")
    return float(least)


class LinfPGDAttack:
    """`advertorch.attacks.LinfPGDAttack`: its arguments, ``perturb(x, y)`` and a call of the same.

    Args:
        predict: Images to logits; a module is in eval mode.
        loss_fn: None or `torch.nn.CrossEntropyLoss()`: the cross-entropy. Any other function of logits (N, C) and y
            (N,) to a sum or mean over samples, or to (N,), on the eager engine.
        eps: Radius, a number or (N,).
        nb_iter: Steps.
        eps_iter: Step size, a number or (N,).
        rand_init: Whether to start uniformly in [-eps, eps], from PyTorch's generator as advertorch does.
        clip_min, clip_max: Bounds of a pixel: a number, or a tensor that holds one number.
        targeted: Whether y are targets to move towards.
        **options: Other options of :func:`fairtat.fast_pgd`, such as ``engine="compiled"``.

    Raises:
        ValueError: in ``perturb``, the model is in train mode, images are outside the bounds, which differ between
            pixels, ``eps`` is over their range, or ``y`` is missing for a targeted attack.

    Source: Madry et al. 2018, arXiv:1706.06083.
    """

    def __init__(
        self,
        predict: Model,
        loss_fn: Callable[[Tensor, Tensor], Tensor] | None = None,
        eps: float | Tensor = 0.3,
        nb_iter: int = 40,
        eps_iter: float | Tensor = 0.01,
        rand_init: bool = True,
        clip_min: float | Tensor = 0.0,
        clip_max: float | Tensor = 1.0,
        targeted: bool = False,
        **options: Any,
    ) -> None:
        self.predict = predict
        self.loss_fn = loss_fn
        self.eps = eps
        self.nb_iter = nb_iter
        self.eps_iter = eps_iter
        self.rand_init = rand_init
        self.clip_min = clip_min
        self.clip_max = clip_max
        self.targeted = targeted
        self.options = options

    def perturb(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """x_adv for images (N, ...) and labels or targets (N,); the model's predictions stand for missing labels."""
        bounds = _bound("clip_min", self.clip_min), _bound("clip_max", self.clip_max)
        if (reason := obstacle(self.predict, x, eps=self.eps, bounds=bounds)) is not None:
            raise ValueError(f"{type(self).__name__}: {reason}")
        if y is None:
            if self.targeted:
                raise ValueError("y must be the targets of a targeted attack, got None")
            with torch.no_grad():
                y = self.predict(x).argmax(dim=1)
        start = None
        if self.rand_init:
            eps = self.eps.view(-1, *[1] * (x.ndim - 1)) if isinstance(self.eps, Tensor) else self.eps
            start = (x + eps * torch.empty_like(x).uniform_(-1, 1)).clamp(*bounds)
        return attack(
            self.predict,
            x.detach(),
            y,
            targeted=self.targeted,
            start=start,
            eps=self.eps,
            step_size=self.eps_iter,
            steps=self.nb_iter,
            bounds=bounds,
            **({} if self._plain() else {"loss": self._loss}),
            **self.options,
        )

    def _plain(self) -> bool:
        loss = self.loss_fn
        return loss is None or (
            isinstance(loss, nn.CrossEntropyLoss)
            and loss.weight is None
            and not loss.label_smoothing
            and loss.ignore_index < 0
        )

    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        """(N,) losses with the sum that ``loss_fn`` has: steps in Linf take nothing else from it than signs."""
        assert self.loss_fn is not None
        loss = self.loss_fn(logits, y)
        return loss if loss.ndim else loss.expand(len(logits)) / len(logits)

    def __call__(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.perturb(x, y)
