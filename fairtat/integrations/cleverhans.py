"""CleverHans' two functions for PyTorch, with its arguments, run by fairtat's attack.

Source: Papernot et al. 2018, arXiv:1610.00768; cleverhans 4.0, ``cleverhans.torch.attacks``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairtat.integrations.peer import attack, obstacle, peer_loop, require

_fgm = require("cleverhans.torch.attacks.fast_gradient_method", "cleverhans")
_pgd = require("cleverhans.torch.attacks.projected_gradient_descent", "cleverhans")
_utils = require("cleverhans.torch.utils", "cleverhans")

__all__ = ["fast_gradient_method", "projected_gradient_descent"]

Model = Callable[[Tensor], Tensor]


def fast_gradient_method(
    model_fn: Model,
    x: Tensor,  # (N, ...)
    eps: float,
    norm: float,
    clip_min: float | None = None,
    clip_max: float | None = None,
    y: Tensor | None = None,  # (N,)
    targeted: bool = False,
    sanity_checks: bool = False,
    **options: Any,  # as fairtat.fast_pgd
) -> Tensor:
    """`cleverhans.torch.attacks.fast_gradient_method.fast_gradient_method`: one step of length ``eps``.

    Where the model, the norm or the arguments are ones that fairtat's attack does not take, cleverhans' function
    runs, and raises its own errors.

    Source: Goodfellow et al. 2015, arXiv:1412.6572.
    """
    call = _Call(model_fn, x, eps, eps, norm, (clip_min, clip_max), y, targeted)
    if (reason := call.obstacle()) is not None:
        peer_loop("cleverhans", reason)
        peers_own: Tensor = _fgm.fast_gradient_method(
            model_fn, x, eps, norm, clip_min, clip_max, y, targeted, sanity_checks
        )
        return peers_own
    return call.attack(1, None, options)


def projected_gradient_descent(
    model_fn: Model,
    x: Tensor,  # (N, ...)
    eps: float,
    eps_iter: float,
    nb_iter: int,
    norm: float,
    clip_min: float | None = None,
    clip_max: float | None = None,
    y: Tensor | None = None,  # (N,)
    targeted: bool = False,
    rand_init: bool = True,
    rand_minmax: float | None = None,
    sanity_checks: bool = True,
    **options: Any,  # as fairtat.fast_pgd
) -> Tensor:
    """`cleverhans.torch.attacks.projected_gradient_descent.projected_gradient_descent`.

    cleverhans' own loop runs as in :func:`fast_gradient_method`, and in L2 with bounds, to which cleverhans clips
    before it projects on the ball, fairtat after.

    Source: Madry et al. 2018, arXiv:1706.06083.
    """
    call = _Call(model_fn, x, eps, eps_iter, norm, (clip_min, clip_max), y, targeted)
    reason = call.obstacle()
    if reason is None and norm == 2 and clip_min is not None:
        reason = "in L2 cleverhans clips to the bounds before it projects on the ball"
    if reason is not None:
        peer_loop("cleverhans", reason)
        peers_own: Tensor = _pgd.projected_gradient_descent(
            model_fn, x, eps, eps_iter, nb_iter, norm, clip_min, clip_max, y, targeted, rand_init, rand_minmax,
            sanity_checks,
        )  # fmt: skip
        return peers_own
    start = None
    if rand_init:
        reach = eps if rand_minmax is None else rand_minmax
        start = x + _utils.clip_eta(torch.zeros_like(x).uniform_(-reach, reach), norm, eps)
        start = start if clip_min is None else start.clamp(clip_min, clip_max)
    return call.attack(nb_iter, start, options)


@dataclass(frozen=True)
class _Call:
    """What both functions are given."""

    model: Model
    x: Tensor
    eps: float
    step: float
    norm: float
    clip: tuple[float | None, float | None]
    y: Tensor | None
    targeted: bool

    def obstacle(self) -> str | None:
        low, high = self.clip
        if self.norm not in (np.inf, 2):
            return f"norm is {self.norm}"
        if (low is None) != (high is None) or (low is not None and high is not None and low > high):
            return f"clip_min is {low} and clip_max is {high}"
        if not 0 < self.step <= self.eps:
            return f"eps is {self.eps} and the step {self.step}"
        if self.x.dtype != torch.float32:
            return f"the images are {self.x.dtype}, which cleverhans casts"
        return obstacle(self.model, self.x, eps=self.eps, norm=self._fairtats_norm, bounds=self._bounds)

    @property
    def _fairtats_norm(self) -> str:
        return "linf" if self.norm == np.inf else "l2"

    @property
    def _bounds(self) -> tuple[float, float]:
        low, high = self.clip
        return (-np.inf, np.inf) if low is None or high is None else (low, high)

    def attack(self, steps: int, start: Tensor | None, options: dict[str, Any]) -> Tensor:
        y = self.y
        if y is None:
            with torch.no_grad():
                y = self.model(self.x).argmax(dim=1)
        return attack(
            self.model,
            self.x.detach(),
            y,
            targeted=self.targeted,
            start=start,
            eps=self.eps,
            step_size=self.step,
            steps=steps,
            norm=self._fairtats_norm,
            bounds=self._bounds,
            **options,
        )
