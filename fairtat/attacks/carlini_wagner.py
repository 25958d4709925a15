"""cw_l2: the nearest adversarial image in L2 by Adam, with the weight of the misclassification searched per image."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from fairtat.attacks.autoattack.apgd_steps import attack_loss
from fairtat.attacks.autoattack.arena import Arena
from fairtat.attacks.autoattack.calls import CallKeywords, run_stage, shows_call_options
from fairtat.attacks.autoattack.pool import Outcome, Run, run, steps_per_round
from fairtat.attacks.autoattack.resumable import (
    Columns,
    PausedSamples,
    Resumable,
    before_looking,
    choose,
    lengths,
    over,
    per_image,
)
from fairtat.attacks.result import AttackResult
from fairtat.checks import boolean, check_count, real
from fairtat.engines.model.state import Model
from fairtat.engines.operations import BACKWARD

__all__ = ["CarliniWagner", "cw_l2"]

BETAS = (0.9, 0.999)  # of Adam, as its epsilon
EPSILON = 1e-8
INSIDE = 0.999999  # images are drawn this little towards gray: at the bounds themselves w is infinite
CHECKS = 10  # in n_iter steps, with abort_early


@dataclass(kw_only=True)
class CWSamples(PausedSamples):
    w_start: Tensor  # (N, ...) the image's own w
    w: Tensor  # (N, ...) what Adam moves: x_adv = mid + half tanh(w)
    first: Tensor  # (N, ...) Adam's moments
    second: Tensor  # (N, ...)
    x_found: Tensor  # (N, ...) the nearest adversarial point
    distance: Tensor  # (N,) how far it is from the image
    const: Tensor  # (N,) c
    lower: Tensor  # (N,) the largest c that was too small
    upper: Tensor  # (N,) the smallest one that was large enough; infinite: none was
    searches: Tensor  # (N,) int64: values of c that are done
    iteration: Tensor  # (N,) int64: steps with this one
    cost: Tensor  # (N,) the objective at the last check
    progress: Tensor  # (N,) bool: a nearer point has been found since
    succeeded: Tensor  # (N,) bool: this c has given an adversarial point
    over: Tensor  # (N,) bool: all searches are done


class CWSteps(Resumable):
    samples_type = CWSamples
    fixed = Resumable.fixed | {"w_start"}

    def __init__(self, arena: Arena, columns: Columns, number: int, *, options: CarliniWagner) -> None:
        super().__init__(arena, columns, number)
        self.options = options

    def losses(self, logits: Tensor, samples: Any) -> tuple[Tensor, Tensor]:
        """The margin beyond the boundary, and its gradient where it is smaller than the confidence."""
        margin, gradient = attack_loss(logits, samples.y, samples.goal, "margin", self.arena.target is not None)
        return margin, torch.where((margin < self.options.confidence)[:, None], gradient, 0.0)

    def move(self, samples: Any, grad: Tensor) -> Tensor:
        s, options = samples, self.options
        away = lengths(s.x_adv - s.x, "l2")
        hit = s.wrong & (s.loss >= options.confidence) & ~s.over
        nearer = hit & (away < s.distance)
        s.x_found.copy_(choose(nearer, s.x_adv, s.x_found))
        s.distance.copy_(torch.where(nearer, away, s.distance))
        s.found |= nearer & (away <= s.eps)
        s.succeeded |= hit

        cost = away.square() + s.const * (options.confidence - s.loss).clamp_min(0.0)
        s.progress |= nearer
        ends = s.iteration + 1 >= options.n_iter
        if options.abort_early:
            check = s.iteration % math.ceil(options.n_iter / CHECKS) == 0
            ends |= check & ~s.progress & ~(cost < s.cost)
            s.cost.copy_(torch.where(check, cost, s.cost))
            s.progress &= ~check
        s.iteration += 1
        self._descend(s, grad)
        self._next_search(s, ends)
        return inside(s.w, self.arena)

    def _descend(self, s: CWSamples, grad: Tensor) -> None:
        """A step of Adam down ``||x_adv - x||^2 + c f``, as a function of w."""
        grad = grad.to(s.x.dtype).nan_to_num(nan=0.0)
        slope = 2 * (s.x_adv - s.x) - per_image(s.const, s.x) * grad
        slope = slope * (0.5 * (self.arena.hi - self.arena.lo)) / torch.cosh(s.w).square()
        s.first.lerp_(slope, 1 - BETAS[0])
        s.second.lerp_(slope.square(), 1 - BETAS[1])
        mean, square = (
            moment / per_image(1 - torch.pow(beta, s.iteration.to(s.x.dtype)), s.x)
            for moment, beta in zip((s.first, s.second), BETAS, strict=True)
        )
        s.w -= self.options.learning_rate * mean / (square.sqrt() + EPSILON)

    def _next_search(self, s: CWSamples, ends: Tensor) -> None:
        """Where a search ends: the next c, from the image again."""
        s.upper.copy_(torch.where(ends & s.succeeded, torch.minimum(s.upper, s.const), s.upper))
        s.lower.copy_(torch.where(ends & ~s.succeeded, torch.maximum(s.lower, s.const), s.lower))
        const = torch.where(s.upper.isinf(), 10 * s.const, (s.lower + s.upper) / 2)
        s.const.copy_(torch.where(ends, const, s.const))
        s.searches += ends
        s.over |= s.searches >= self.options.binary_search_steps
        s.w.copy_(choose(ends, s.w_start, s.w))
        for moment in (s.first, s.second):
            moment.copy_(choose(ends, torch.zeros_like(moment), moment))
        s.iteration.copy_(torch.where(ends, 0, s.iteration))
        s.cost.copy_(torch.where(ends, torch.inf, s.cost))
        s.succeeded &= ~ends

    def settings(self) -> Hashable:
        return super().settings(), self.options


@dataclass(frozen=True)
class CarliniWagner:
    """The attack with its options, as :func:`fairtat.attacks.cw_l2`."""

    n_iter: int = 1000
    binary_search_steps: int = 9
    initial_const: float = 1e-3
    confidence: float = 0.0
    learning_rate: float = 0.01
    abort_early: bool = True

    def __post_init__(self) -> None:
        check_count("n_iter", self.n_iter, 1)
        check_count("binary_search_steps", self.binary_search_steps, 1)
        real("confidence", self.confidence, low=0.0)
        for name in ("initial_const", "learning_rate"):
            if real(name, getattr(self, name), low=0.0) == 0.0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)!r}")
        boolean("abort_early", self.abort_early)

    def notes(self, classes: int, *, target_given: bool) -> Iterator[str]:
        """Few classes make no difference to it."""
        yield from ()

    def passes(self, classes: int, *, target_given: bool = False) -> float:
        """What it costs per image at most, in passes forward."""
        return float(self.binary_search_steps * self.n_iter * BACKWARD)

    def attack(self, arena: Arena, outcome: Outcome) -> None:
        if not math.isfinite(arena.lo) or not math.isfinite(arena.hi):
            raise ValueError(f"bounds of cw_l2 must be finite, got ({arena.lo}, {arena.hi})")

        def start(rows: Tensor) -> Columns:
            x, eps = arena.x[rows], arena.eps[rows]
            w = torch.atanh(INSIDE * ((2 * x - arena.lo - arena.hi) / (arena.hi - arena.lo)).clamp(-1, 1))
            columns = before_looking(arena, rows, arena.goal[rows], inside(w, arena))
            count, no, far = columns["step"], columns["found"], torch.full_like(eps, torch.inf)
            return {
                **columns, "w_start": w, "w": w.clone(), "first": torch.zeros_like(x), "second": torch.zeros_like(x),
                "x_found": x.clone(), "distance": far, "const": torch.full_like(eps, self.initial_const),
                "lower": torch.zeros_like(eps), "upper": far.clone(), "cost": far.clone(),
                "progress": no.clone(), "searches": count.clone(),
                "iteration": count.clone(), "succeeded": no.clone(), "over": no.clone(),
            }  # fmt: skip

        looks = self.binary_search_steps * self.n_iter
        per_round = steps_per_round(looks, 20, 30)
        # A radius asks for any point within it, no radius for the nearest one.
        stops = bool(arena.eps.isfinite().all())
        run(arena, Run(start, partial(CWSteps, arena, options=self), per_round, looks, "x_found", over, stops), outcome)


def inside(w: Tensor, arena: Arena) -> Tensor:
    """The image of w: ``(lo + hi) / 2 + (hi - lo) / 2 * tanh(w)``."""
    x = 0.5 * (arena.lo + arena.hi) + 0.5 * (arena.hi - arena.lo) * torch.tanh(w)
    return x.clamp(arena.lo, arena.hi)


@shows_call_options
def cw_l2(
    model: Model,
    x: Tensor,  # (N, ...)
    y: Tensor,  # (N,)
    *,
    eps: float | Tensor | None = None,  # scalar or (N,)
    n_iter: int = 1000,
    binary_search_steps: int = 9,
    initial_const: float = 1e-3,
    confidence: float = 0.0,
    learning_rate: float = 0.01,
    abort_early: bool = True,
    return_info: bool = False,
    **options: Unpack[CallKeywords],
) -> Tensor | AttackResult:
    """Look for the nearest adversarial image in L2 by the attack of Carlini and Wagner.

    Adam minimizes over w, for an image x in [lo, hi] with logits Z::

        x'(w) = (lo + hi) / 2 + (hi - lo) / 2 tanh(w)
        min_w ||x'(w) - x||^2 + c f(x'(w)),        f = max(0, Z_y - max_{k != y} Z_k + confidence)

    and towards a target t ``f = max(0, max_{k != t} Z_k - Z_t + confidence)``. Each of ``binary_search_steps`` searches
    starts from the image and has its own c: ten times the last one until one succeeds, then the mean of the largest c
    that failed and the smallest that succeeded. All of this is decided per image.

    Args:
        model, x, y, options: As in :func:`fairtat.attacks.apgd`; ``bounds`` must be finite.
        eps: None: the nearest point that all searches find. A radius in pixel units, a number or (N,): the search for
            an image ends with the first point within it, and only such a point counts.
        n_iter: Steps of Adam in a search.
        binary_search_steps: Searches.
        initial_const: c of the first search, positive.
        confidence: By how much the wrong class has to lead, in logits, at least 0.
        learning_rate: Of Adam, positive.
        abort_early: A search ends where a tenth of ``n_iter`` steps has neither lowered the objective nor found a
            nearer point. (The authors' code asks for 0.01%, of the whole batch; pixels that begin at their bounds move
            by less at first.)

    Returns:
        As :func:`fairtat.attacks.apgd`: the nearest point found, else the image itself. The distance of image i is that
        of x_adv[i] to x[i] where ``reached``.

    Raises:
        ValueError, TypeError, RuntimeError: as :func:`fairtat.fast_pgd`.

    Source: Carlini and Wagner 2017, arXiv:1608.04644.
    """
    stage = CarliniWagner(n_iter, binary_search_steps, initial_const, confidence, learning_rate, abort_early)
    return run_stage(stage, model, x, y, eps, "l2", options, return_info)
