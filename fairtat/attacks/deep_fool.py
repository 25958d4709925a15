"""deepfool: straight to the nearest boundary of the linearized model, again and again until the class changes."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from fairtat.attacks.autoattack.arena import Arena
from fairtat.attacks.autoattack.calls import CallKeywords, run_stage, shows_call_options
from fairtat.attacks.autoattack.fab_steps import TowardsNearest, dual_length
from fairtat.attacks.autoattack.pool import Outcome, Run, run, steps_per_round
from fairtat.attacks.autoattack.resumable import (
    TINY,
    Columns,
    PausedSamples,
    before_looking,
    choose,
    lengths,
    over,
    per_image,
    steepest,
)
from fairtat.attacks.autoattack.stages import likely_others
from fairtat.attacks.result import AttackResult
from fairtat.checks import check_count, real
from fairtat.engines.model.state import Model
from fairtat.engines.operations import BACKWARD

__all__ = ["DeepFool", "deepfool"]

LEAST = 1e-4  # of the range of pixels: by how much a step goes beyond the boundary at least


@dataclass(kw_only=True)
class DeepFoolSamples(PausedSamples):
    candidates: Tensor  # (N, T) the classes that are looked at
    x_found: Tensor  # (N, ...) the adversarial point
    total: Tensor  # (N, ...) the sum of the steps so far, without overshoot
    over: Tensor  # (N,) bool: the last step is made, or ended beyond the radius


class DeepFoolSteps(TowardsNearest):
    samples_type = DeepFoolSamples
    fixed = TowardsNearest.fixed | {"candidates"}

    def __init__(self, arena: Arena, columns: Columns, number: int, *, n_iter: int, overshoot: float) -> None:
        super().__init__(arena, columns, number)
        self.n_iter, self.overshoot = n_iter, overshoot
        self.least = LEAST * (arena.hi - arena.lo if math.isfinite(arena.hi - arena.lo) else 1.0)
        self.several = columns["candidates"].shape[1] > 1

    def others(self, samples: Any) -> Tensor | None:
        candidates: Tensor = samples.candidates
        return candidates

    def move(self, samples: Any, grad: Tensor) -> Tensor:
        s, arena = samples, self.arena
        fooled = s.wrong & ~s.found & ~s.over
        hit = fooled & (lengths(s.x_adv - s.x, arena.norm) <= s.eps)
        s.x_found.copy_(choose(hit, s.x_adv, s.x_found))
        s.found |= hit
        s.over |= (fooled & ~hit) | (s.step >= self.n_iter)
        grad = grad.to(s.x.dtype).nan_to_num(nan=0.0)
        away = s.loss.abs() / (dual_length(grad, arena.norm) + TINY) + self.least
        s.total += per_image(away.to(grad.dtype), grad) * steepest(grad, arena.norm)
        moved: Tensor = s.x + (1 + self.overshoot) * s.total
        return moved.clamp(arena.lo, arena.hi)

    def settings(self) -> Hashable:
        return super().settings(), self.n_iter, self.overshoot


@dataclass(frozen=True)
class DeepFool:
    """DeepFool with its options, as :func:`fairtat.attacks.deepfool`."""

    n_iter: int = 50
    overshoot: float = 0.02
    nb_candidates: int = 10

    def __post_init__(self) -> None:
        check_count("n_iter", self.n_iter, 1)
        check_count("nb_candidates", self.nb_candidates, 2)
        real("overshoot", self.overshoot, low=0.0)

    def notes(self, classes: int, *, target_given: bool) -> Iterator[str]:
        """Few classes make no difference to it."""
        yield from ()

    def passes(self, classes: int, *, target_given: bool = False) -> float:
        """What it costs per image at most, in passes forward: in each step one, and one back for each candidate."""
        others = 1 if target_given else min(self.nb_candidates, classes) - 1
        return float((self.n_iter + 1) * (1 + (BACKWARD - 1) * others))

    def attack(self, arena: Arena, outcome: Outcome) -> None:
        candidates = likely_others(arena, self.nb_candidates - 1) if arena.target is None else arena.target[:, None]

        def start(rows: Tensor) -> Columns:
            x = arena.x[rows]
            columns = before_looking(arena, rows, arena.goal[rows], x.clone())
            return {
                **columns, "candidates": candidates[rows].contiguous(), "x_found": x.clone(),
                "total": torch.zeros_like(x), "over": columns["found"].clone(),
            }  # fmt: skip

        looks = self.n_iter + 1
        steps = partial(DeepFoolSteps, arena, n_iter=self.n_iter, overshoot=self.overshoot)
        run(arena, Run(start, steps, steps_per_round(looks, 3, 6), looks, "x_found", over), outcome)


@shows_call_options
def deepfool(
    model: Model,
    x: Tensor,  # (N, ...)
    y: Tensor,  # (N,)
    *,
    eps: float | Tensor | None = None,  # scalar or (N,)
    norm: str = "l2",
    n_iter: int = 50,
    overshoot: float = 0.02,
    nb_candidates: int = 10,
    return_info: bool = False,
    **options: Unpack[CallKeywords],
) -> Tensor | AttackResult:
    """Look for a near adversarial image by DeepFool: steps to the nearest boundary of the linearized model.

    With ``f_k = z_k - z_y``, and k the class among the candidates whose plane is nearest, each step adds to the sum r
    the shortest way to that plane, and goes a little further::

        k       = argmin |f_k(x_i)| / ||grad f_k(x_i)||_q                       q = 2 in L2, 1 in Linf
        r      += (|f_k(x_i)| / ||grad f_k(x_i)||_q + tiny) v      L2: v = grad f_k / ||grad f_k||, Linf: sign(grad f_k)
        x_i+1   = clip(x + (1 + overshoot) r)

    until the class changes; tiny is 1e-4 of the range of pixels, as in the authors' code, without which points may stay
    a rounding away from the boundary. On an affine model one step suffices.

    Args:
        model, x, y, options: As in :func:`fairtat.attacks.apgd`. With ``target`` the one candidate is the target.
        eps: None: a point counts however far away it is. A radius in pixel units, a number or (N,): only a point within
            it counts, and an image that becomes another class beyond it is given up.
        norm: "l2" or "linf".
        n_iter: Steps at most.
        overshoot: How much further than to the boundary.
        nb_candidates: How many of the most likely classes of the clean image are looked at, its own among them. A step
            takes a backward pass for each of the others.

    Returns:
        As :func:`fairtat.attacks.apgd`: the first point found, else the image itself. The distance of image i is that
        of x_adv[i] to x[i] where ``reached``.

    Raises:
        ValueError, TypeError, RuntimeError: as :func:`fairtat.fast_pgd`.

    Source: Moosavi-Dezfooli, Fawzi and Frossard 2016, arXiv:1511.04599.
    """
    return run_stage(DeepFool(n_iter, overshoot, nb_candidates), model, x, y, eps, norm, options, return_info)
