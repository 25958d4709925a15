"""APGD (Croce and Hein 2020, arXiv:2003.01690): momentum, and a step that halves where it stops paying.

Everything is decided per sample on the device. With x the image, p the projection on ball and bounds::

    z      = p(x_k + step_size * sign(g_k))                        (L2: g_k / ||g_k||)
    x_k+1  = p(x_k + 0.75 (z - x_k) + 0.25 (x_k - x_k-1))          (x_1 = z)

At the checkpoints the step halves, and the sample goes back to its best point so far, if the loss rose in at most
``rho`` of the steps since the last checkpoint, or if neither step nor best loss has changed since then.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fairtat.attacks.autoattack.arena import Arena
from fairtat.attacks.autoattack.resumable import (
    TINY,
    Columns,
    PausedSamples,
    Resumable,
    before_looking,
    choose,
    lengths,
    per_image,
    project,
    steepest,
)
from fairtat.attacks.logit_gradient import logit_gradient
from fairtat.engines.samples import Score

MOMENTUM = 0.75  # weight of the step; the rest is that of the last movement


@dataclass(frozen=True)
class Schedule:
    """When the step size is looked at: after ``first`` steps, then after ``shorter`` fewer, at least ``least``."""

    first: int
    shorter: int
    least: int

    @classmethod
    def of(cls, n_iter: int) -> Schedule:
        return cls(*(max(int(share * n_iter), 1) for share in (0.22, 0.03, 0.06)))


@dataclass(kw_only=True)
class APGDSamples(PausedSamples):
    x_found: Tensor  # (N, ...) the last adversarial point
    x_best: Tensor  # (N, ...) the point of the largest loss
    x_old: Tensor  # (N, ...) the point before this one
    grad_best: Tensor  # (N, ...) at x_best
    best_loss: Tensor  # (N,)
    last_loss: Tensor  # (N,) of the point before
    loss_at_check: Tensor  # (N,) best_loss at the last checkpoint
    step_size: Tensor  # (N,)
    period: Tensor  # (N,) int64: steps from the last checkpoint to the next one
    since: Tensor  # (N,) int64: steps since the last one
    rises: Tensor  # (N,) int64: of these, how many raised the loss
    halved: Tensor  # (N,) bool: the last checkpoint halved the step
    zero_grad: Tensor  # (N,) int64: points without any gradient


class APGDSteps(Resumable):
    samples_type = APGDSamples

    def __init__(
        self, arena: Arena, columns: Columns, number: int, *, loss: str, n_iter: int, rho: float, eot_iter: int
    ) -> None:
        super().__init__(arena, columns, number)
        self.loss, self.n_iter, self.rho, self.eot_iter = loss, n_iter, rho, eot_iter
        self.schedule = Schedule.of(n_iter)
        self.signs_only = arena.norm == "linf"

    def losses(self, logits: Tensor, samples: Any) -> tuple[Tensor, Tensor]:
        return attack_loss(logits, samples.y, samples.goal, self.loss, self.arena.target is not None)

    def gradient(self, leaf: Tensor, score: Score) -> Tensor:
        """The mean over ``eot_iter`` passes, for a model that draws random numbers; loss and verdict are the last's."""
        grad = super().gradient(leaf, score)
        for _ in range(self.eot_iter - 1):
            grad = grad + super().gradient(leaf, self.score(self.network(leaf), self.looked_at))
        return grad / self.eot_iter if self.eot_iter > 1 else grad

    def move(self, samples: Any, grad: Tensor) -> Tensor:
        grad = grad.to(samples.x.dtype).nan_to_num(nan=0.0)
        size = lengths(grad, self.arena.norm)
        samples.zero_grad += (size == 0) & (samples.step <= self.n_iter)
        x_now, grad = self._note(samples, grad)
        arena, x, eps = self.arena, samples.x, samples.eps
        z = project(x_now + per_image(samples.step_size, x) * steepest(grad, arena.norm), x, eps, arena)
        share = per_image(torch.where(samples.step == 0, 1.0, MOMENTUM).to(x.dtype), x)
        moved = x_now + (z - x_now) * share + (x_now - samples.x_old) * (1 - share)
        samples.x_old.copy_(x_now)
        return project(moved, x, eps, arena)

    def _note(self, s: APGDSamples, grad: Tensor) -> tuple[Tensor, Tensor]:
        """Judge the point that was looked at; (where the next step starts, along which gradient)."""
        first, counts = s.step == 0, s.step <= self.n_iter
        hit = s.wrong & counts
        s.found |= hit
        s.x_found.copy_(choose(hit, s.x_adv, s.x_found))
        better = counts & (first | (s.loss > s.best_loss) | (s.best_loss.isnan() & ~s.loss.isnan()))
        s.x_best.copy_(choose(better, s.x_adv, s.x_best))
        s.grad_best.copy_(choose(better, grad, s.grad_best))
        s.best_loss.copy_(torch.where(better, s.loss, s.best_loss))
        s.loss_at_check.copy_(torch.where(first, s.best_loss, s.loss_at_check))

        s.since += ~first
        s.rises += ~first & (s.loss > s.last_loss)
        s.last_loss.copy_(s.loss)
        check = ~first & (s.since == s.period)
        stalls = s.rises <= self.rho * s.period
        unmoved = ~s.halved & (s.loss_at_check >= s.best_loss)
        halve = check & (stalls | unmoved)
        s.halved.copy_(torch.where(check, halve, s.halved))
        s.loss_at_check.copy_(torch.where(check, s.best_loss, s.loss_at_check))
        s.step_size.copy_(torch.where(halve, s.step_size / 2, s.step_size))
        s.period.copy_(torch.where(check, (s.period - self.schedule.shorter).clamp_min(self.schedule.least), s.period))
        s.since.copy_(torch.where(check, 0, s.since))
        s.rises.copy_(torch.where(check, 0, s.rises))
        return choose(halve, s.x_best, s.x_adv), choose(halve, s.grad_best, grad)

    def settings(self) -> Hashable:
        return super().settings(), self.loss, self.n_iter, self.rho, self.eot_iter


def start(arena: Arena, rows: Tensor, goal: Tensor, stream: int, n_iter: int) -> Columns:
    """Where the samples begin: Linf: x + eps u / max|u|, u uniform; L2: on the sphere; within the bounds."""
    x, eps = arena.x[rows], arena.eps[rows]
    noise = arena.noise(x, arena.ids[rows], stream, "uniform" if arena.norm == "linf" else "normal")
    noise = noise / per_image(lengths(noise, arena.norm).clamp_min(1e-30), x)
    x_adv = project(x + per_image(eps, x) * noise, x, eps, arena)
    columns = before_looking(arena, rows, goal, x_adv)
    count, number, no = columns["step"], columns["loss"], columns["found"]
    return {
        **columns, "x_found": x_adv.clone(), "x_best": x_adv.clone(), "x_old": x_adv.clone(),
        "grad_best": torch.zeros_like(x_adv), "best_loss": number.clone(), "last_loss": number.clone(),
        "loss_at_check": number.clone(), "step_size": 2 * eps,
        "period": torch.full_like(count, Schedule.of(n_iter).first), "since": count.clone(), "rises": count.clone(),
        "halved": torch.ones_like(no), "zero_grad": count.clone(),
    }  # fmt: skip


def attack_loss(logits: Tensor, y: Tensor, goal: Tensor, kind: str, towards: bool) -> tuple[Tensor, Tensor]:
    """What the attack raises (N,) and its gradient to the logits: a loss of the label, or minus one of the target."""
    z = logits if logits.dtype == torch.float64 else logits.float()
    targeted = kind.endswith("-targeted") or towards
    kind = kind.removesuffix("-targeted")
    against = goal if targeted else y
    label = y if targeted and kind == "dlr" else None
    loss = _loss(z, against, kind, label)
    gradient = logit_gradient(logits, against, kind, label, None)
    return (-loss, -gradient) if targeted else (loss, gradient)


def _loss(z: Tensor, against: Tensor, kind: str, label: Tensor | None) -> Tensor:
    own = z.gather(1, against[:, None])[:, 0]
    if kind == "ce":
        return torch.logsumexp(z, 1) - own
    classes = torch.arange(z.shape[1], device=z.device)
    other = torch.where(classes == against[:, None], -torch.inf, z).amax(1)
    if kind == "margin":
        return other - own
    top = z.sort(1, descending=True).values
    if label is None:
        return (other - own) / (top[:, 0] - top[:, 2] + TINY)
    low = 0.5 * (top[:, 2] + top[:, 3])
    return (z.gather(1, label[:, None])[:, 0] - own) / (top[:, 0] - low + TINY)
