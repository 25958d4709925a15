"""FAB (Croce and Hein 2020, arXiv:1907.02044): steps to the decision boundary, linearized, and back to the image.

With f the difference of two logits, f < 0 on the label's side, a step projects the current point x_k and the image x
on the plane ``f(x_k) + <grad f(x_k), z - x_k> = 0``, which gives d_k and d::

    alpha  = min(||d_k|| / (||d_k|| + ||d||), alpha_max)
    x_k+1  = clip((1 - alpha) (x_k + eta d_k) + alpha (x + eta d))

A point on the other side is remembered if it is the nearest so far, and the next step starts from
``x + beta (x_k+1 - x)``. A step is a forward and a backward pass at x_k and a forward pass at x_k+1, as in the authors'
code: most points are on the other side (65% to 75% of those of two robust networks), and need no gradient.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fairtat.attacks.autoattack.arena import Arena
from fairtat.attacks.autoattack.projection import project_on_plane
from fairtat.attacks.autoattack.resumable import (
    TINY,
    Columns,
    PausedSamples,
    Resumable,
    before_looking,
    choose,
    lengths,
    per_image,
)


class Rates(NamedTuple):
    """The numbers of a FAB step."""

    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9


@dataclass(kw_only=True)
class FABSamples(PausedSamples):
    x_found: Tensor  # (N, ...) the nearest adversarial point
    distance: Tensor  # (N,) how far it is from the image


class LogitDifference(Resumable):
    """Steps along the gradient of ``f = z_goal - z_y``, the difference of two logits."""

    def losses(self, logits: Tensor, samples: Any) -> tuple[Tensor, Tensor]:
        """f, and its gradient to the logits."""
        return difference(logits, samples.y, samples.goal)


class TowardsNearest(LogitDifference):
    """The same towards the class, of some, whose boundary is nearest: ``|f| / ||grad f||`` is least, in the dual norm.

    That takes a backward pass for each of these classes.
    """

    def others(self, samples: Any) -> Tensor | None:
        """The classes (N, T), none of them a sample's label; None: each sample's goal is the only one."""
        raise NotImplementedError

    def input_gradient(self, logits: Tensor, dlogits: Tensor, leaf: Tensor) -> Tensor:
        s = self.looked_at
        others = self.others(s)
        if others is None:
            return super().input_gradient(logits, dlogits, leaf)
        z = logits.detach()
        nearest = s.loss.new_full(s.loss.shape, torch.inf)
        f, gradient = torch.zeros_like(nearest), torch.zeros_like(leaf, dtype=self.x.dtype)
        for k in others.unbind(1):
            df, seed = difference(z, s.y, k)
            grad = super().input_gradient(logits, seed.to(logits.dtype), leaf).to(gradient.dtype)
            away = df.abs() / (dual_length(grad, self.arena.norm) + TINY)
            nearer = away < nearest
            nearest = torch.where(nearer, away, nearest)
            f = torch.where(nearer, df, f)
            gradient = choose(nearer, grad, gradient)
        s.loss.copy_(f)
        return gradient


class FABSteps(TowardsNearest):
    samples_type = FABSamples

    def __init__(
        self, arena: Arena, columns: Columns, number: int, *, n_iter: int, rates: Rates, nearest_class: bool
    ) -> None:
        super().__init__(arena, columns, number)
        self.n_iter, self.rates, self.several = n_iter, rates, nearest_class

    def others(self, samples: Any) -> Tensor | None:
        if not self.several:
            return None
        y = samples.y[:, None]
        k = torch.arange(self.arena.classes - 1, device=y.device)
        rest: Tensor = k + (k >= y)
        return rest

    def move(self, samples: Any, grad: Tensor) -> Tensor:
        s, norm = samples, self.arena.norm
        s.x_adv.copy_(self._projected(s, grad))
        hit = self.at_goal(self.logits_at(s), s) & (s.step < self.n_iter)
        away = lengths(s.x_adv - s.x, norm)
        nearer = hit & (away < s.distance)
        s.x_found.copy_(choose(nearer, s.x_adv, s.x_found))
        s.distance.copy_(torch.where(nearer, away, s.distance))
        s.found |= nearer & (away <= s.eps)
        return choose(hit, s.x + self.rates.beta * (s.x_adv - s.x), s.x_adv)

    def _projected(self, s: Any, grad: Tensor) -> Tensor:
        arena, (alpha_max, eta, _) = self.arena, self.rates
        x, x0 = s.x_adv.flatten(1), s.x.flatten(1)
        w = grad.to(x.dtype).nan_to_num(nan=0.0).flatten(1)
        f = s.loss.to(x.dtype).nan_to_num(nan=0.0)
        distances = torch.cat((-f, -f + (w * (x - x0)).sum(1)))
        d = project_on_plane(torch.cat((x, x0)), torch.cat((w, w)), distances, arena.norm, arena.lo, arena.hi)
        n = len(x)
        size = lengths(d, arena.norm).clamp_min(1e-8)
        alpha = (size[:n] / (size[:n] + size[n:])).clamp_max(alpha_max)[:, None]
        moved = (1 - alpha) * (x + eta * d[:n]) + alpha * (x0 + eta * d[n:])
        return torch.clamp(moved, arena.lo, arena.hi).view(s.x.shape)

    def settings(self) -> Hashable:
        return super().settings(), self.n_iter, self.rates, self.several


def difference(logits: Tensor, y: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    """``z_goal - z_y`` (N,) in float32 or float64, and its gradient to the logits (N, C)."""
    z = logits if logits.dtype == torch.float64 else logits.float()
    classes = torch.arange(z.shape[1], device=z.device)
    label, towards = ((classes == each[:, None]).to(logits.dtype) for each in (y, goal))
    return _pick(z, goal) - _pick(z, y), towards - label


def dual_length(grad: Tensor, norm: str) -> Tensor:
    """(N,) the norm of a gradient by which a perturbation, measured in ``norm``, changes the function most."""
    return lengths(grad, "l2") if norm == "l2" else grad.abs().sum(tuple(range(1, grad.ndim)))


def _pick(z: Tensor, index: Tensor) -> Tensor:
    return z.gather(1, index[:, None])[:, 0]


def start(arena: Arena, rows: Tensor, goal: Tensor, stream: int, *, at_random: bool) -> Columns:
    """Where the samples begin: the image itself; at random: half of the radius away, in the norm."""
    x, eps = arena.x[rows], arena.eps[rows]
    x_adv = torch.empty_like(x).copy_(x)
    if at_random:
        noise = arena.noise(x, arena.ids[rows], stream, "uniform" if arena.norm == "linf" else "normal")
        noise = noise / per_image(lengths(noise, arena.norm).clamp_min(1e-30), x)
        x_adv = (x + per_image(eps / 2, x) * noise).clamp(arena.lo, arena.hi)
    columns = before_looking(arena, rows, goal, x_adv)
    return {**columns, "x_found": x_adv.clone(), "distance": torch.full_like(eps, torch.inf)}
