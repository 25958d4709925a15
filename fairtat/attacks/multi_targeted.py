"""multi_targeted_pgd: PGD towards the likely wrong classes, one after another, on the samples that are left."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from fairtat.attacks.autoattack.arena import Arena
from fairtat.attacks.autoattack.calls import CallKeywords, run_stage, shows_call_options
from fairtat.attacks.autoattack.fab_steps import LogitDifference
from fairtat.attacks.autoattack.pool import Outcome, Run, run, steps_per_round
from fairtat.attacks.autoattack.resumable import (
    Columns,
    PausedSamples,
    before_looking,
    choose,
    lengths,
    per_image,
    project,
    steepest,
)
from fairtat.attacks.autoattack.stages import aimed_at, check_restarts, fewer_targets, goals, stream_of
from fairtat.attacks.result import AttackResult
from fairtat.checks import check_count, per_sample
from fairtat.engines.model.state import Model
from fairtat.engines.operations import BACKWARD
from fairtat.ops import pgd_init

__all__ = ["MultiTargeted", "multi_targeted_pgd"]


@dataclass(kw_only=True)
class MultiTargetedSamples(PausedSamples):
    step_size: Tensor  # (N,)
    x_found: Tensor  # (N, ...) the adversarial point; before one is found, that of the largest loss
    best_loss: Tensor  # (N,) there
    zero_grad: Tensor  # (N,) int64: points without any gradient


class MultiTargetedSteps(LogitDifference):
    samples_type = MultiTargetedSamples
    fixed = LogitDifference.fixed | {"step_size"}

    def __init__(self, arena: Arena, columns: Columns, number: int, *, n_iter: int) -> None:
        super().__init__(arena, columns, number)
        self.n_iter = n_iter
        self.signs_only = arena.norm == "linf"

    def move(self, samples: Any, grad: Tensor) -> Tensor:
        s, arena = samples, self.arena
        counts = (s.step <= self.n_iter) & ~s.found
        better = counts & (s.wrong | (s.loss > s.best_loss))
        s.x_found.copy_(choose(better, s.x_adv, s.x_found))
        s.best_loss.copy_(torch.where(better, s.loss, s.best_loss))
        s.found |= counts & s.wrong
        grad = grad.to(s.x.dtype).nan_to_num(nan=0.0)
        s.zero_grad += counts & (lengths(grad, arena.norm) == 0)
        return project(s.x_adv + per_image(s.step_size, s.x) * steepest(grad, arena.norm), s.x, s.eps, arena)

    def settings(self) -> Hashable:
        return super().settings(), self.n_iter


@dataclass(frozen=True, eq=False)
class MultiTargeted:
    """Multi-targeted PGD with its options, as :func:`fairtat.attacks.multi_targeted_pgd`."""

    step_size: float | Tensor | None = None  # scalar or (N,)
    n_iter: int = 20
    n_restarts: int = 1
    n_target_classes: int = 9

    def __post_init__(self) -> None:
        check_restarts(self.n_restarts)
        for name in ("n_iter", "n_target_classes"):
            check_count(name, getattr(self, name), 1)

    def notes(self, classes: int, *, target_given: bool) -> Iterator[str]:
        """What is not as in the paper, for a model of few classes."""
        if not target_given:
            yield from fewer_targets(self.n_target_classes, classes)

    def passes(self, classes: int, *, target_given: bool = False) -> float:
        """What it costs per image at most, in passes forward."""
        aims = aimed_at(True, self.n_target_classes, classes, target_given)
        return float(self.n_restarts * aims * (self.n_iter + 1) * BACKWARD)

    def attack(self, arena: Arena, outcome: Outcome) -> None:
        size_n, size = per_sample("step_size", arena.eps / 4 if self.step_size is None else self.step_size, arena.x)
        sizes = torch.full_like(arena.eps, size) if size_n is None else size_n
        looks = self.n_iter + 1
        steps = partial(MultiTargetedSteps, arena, n_iter=self.n_iter)
        for restart in range(self.n_restarts):
            for k, goal in goals(arena, True, self.n_target_classes):

                def start(rows: Tensor, goal: Tensor = goal, stream: int = stream_of("mt", k, restart)) -> Columns:
                    x_adv = pgd_init(
                        arena.x[rows], arena.eps[rows], seed=arena.seed, sample_ids=arena.ids[rows], stream=stream,
                        norm=arena.norm, bounds=(arena.lo, arena.hi),
                    )  # fmt: skip
                    columns = before_looking(arena, rows, goal[rows], x_adv)
                    return {
                        **columns, "step_size": sizes[rows], "x_found": x_adv.clone(),
                        "best_loss": torch.full_like(columns["loss"], -torch.inf), "zero_grad": columns["step"].clone(),
                    }  # fmt: skip

                per_round = steps_per_round(looks, 5, 10)
                run(arena, Run(start, steps, per_round, looks, "x_found", keeps_best=True), outcome)


@shows_call_options
def multi_targeted_pgd(
    model: Model,
    x: Tensor,  # (N, ...)
    y: Tensor,  # (N,)
    *,
    eps: float | Tensor = 8 / 255,  # scalar or (N,)
    norm: str = "linf",
    step_size: float | Tensor | None = None,  # scalar or (N,)
    n_iter: int = 20,
    n_restarts: int = 1,
    n_target_classes: int = 9,
    return_info: bool = False,
    **options: Unpack[CallKeywords],
) -> Tensor | AttackResult:
    """Look for adversarial images by PGD towards each of the likely wrong classes t, on the difference of two logits.

    From a random point in the ball, with p the projection on the ball and the bounds::

        x_k+1 = p(x_k + step_size * sign(d(z_t - z_y) / dx_k))              in L2: g / (||g|| + 1e-12) for the sign

    The classes are those of the largest logits of the clean image, from one forward pass that all of them share, and
    come one after another, each for the images that are still right. Any wrong class fools.

    Args:
        model, x, y, options: As in :func:`fairtat.attacks.apgd`. With ``target`` that is the one class to move towards,
            and to become.
        eps, norm: As in :func:`fairtat.attacks.apgd`.
        step_size: In pixel units, a number or (N,); default eps / 4.
        n_iter: Steps towards each class.
        n_restarts: How often all classes are tried.
        n_target_classes: At most so many classes, of the others that there are; the paper tries all.

    Returns:
        x_adv like x: an adversarial image where one was found, else the point that came nearest to a wrong class, by
        the margin ``max_{k != y} z_k - z_y``. With ``return_info=True`` an :class:`AttackResult`.

    Raises:
        ValueError, TypeError, RuntimeError: as :func:`fairtat.fast_pgd`.

    Source: Gowal et al. 2019, "An alternative surrogate loss for PGD-based adversarial testing", arXiv:1910.09338.
    """
    stage = MultiTargeted(step_size, n_iter, n_restarts, n_target_classes)
    return run_stage(stage, model, x, y, eps, norm, options, return_info)
