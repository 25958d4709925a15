"""CleverHans' two functions for PyTorch, with its arguments, run by fairtat's attack.

Source: Papernot et al. 2018, arXiv:1610.00768; cleverhans 4.0, ``cleverhans.torch.attacks``.
"""

from __future__ import annotations

from collections.abc import Callable
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
    reason = _obstacle(model_fn, x, eps, eps, norm, clip_min, clip_max)
    if reason is not None:
        peer_loop("cleverhans", reason)
        peers_own: Tensor = _fgm.fast_gradient_method(
            model_fn, x, eps, norm, clip_min, clip_max, y, targeted, sanity_checks
        )
        return peers_own
    return _attack(model_fn, x, eps, eps, 1, norm, clip_min, clip_max, y, targeted, None, options)


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
    reason = _obstacle(model_fn, x, eps, eps_iter, norm, clip_min, clip_max)
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
    return _attack(model_fn, x, eps, eps_iter, nb_iter, norm, clip_min, clip_max, y, targeted, start, options)


def _obstacle(
    model: Model, x: Tensor, eps: float, step: float, norm: float, clip_min: float | None, clip_max: float | None
) -> str | None:
    if norm not in (np.inf, 2):
        return f"norm is {norm}"
    if (clip_min is None) != (clip_max is None) or (
        clip_min is not None and clip_max is not None and clip_min > clip_max
    ):
        return f"clip_min is {clip_min} and clip_max is {clip_max}"
    if not 0 < step <= eps:
        return f"eps is {eps} and the step {step}"
    if x.dtype != torch.float32:
        return f"the images are {x.dtype}, which cleverhans casts"
    return obstacle(model, x)


def _attack(
    model: Model,
    x: Tensor,
    eps: float,
    step_size: float,
    steps: int,
    norm: float,
    clip_min: float | None,
    clip_max: float | None,
    y: Tensor | None,
    targeted: bool,
    start: Tensor | None,
    options: dict[str, Any],
) -> Tensor:
    if y is None:
        with torch.no_grad():
            y = model(x).argmax(dim=1)
    return attack(
        model,
        x.detach(),
        y,
        targeted=targeted,
        start=start,
        eps=eps,
        step_size=step_size,
        steps=steps,
        norm="linf" if norm == np.inf else "l2",
        bounds=(-np.inf, np.inf) if clip_min is None or clip_max is None else (clip_min, clip_max),
        **options,
    )
