"""FAB (Croce and Hein 2020, arXiv:1907.02044): steps to the decision boundary, linearized, and back to the image.

With f the difference of two logits, f < 0 on the label's side, a step projects the current point x_k and the image x
on the plane ``f(x_k) + <grad f(x_k), z - x_k> = 0``, which gives d_k and d::

    alpha  = min(||d_k|| / (||d_k|| + ||d||), alpha_max)
    x_k+1  = clip((1 - alpha) (x_k + eta d_k) + alpha (x + eta d))

A point on the other side is remembered if it is the nearest so far, and the next step starts from
``x + beta (x_k+1 - x)``. Such a point costs a pass of its own here; any other one is judged and left in one pass.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fairtat.attacks.autoattack.arena import Arena
from fairtat.attacks.autoattack.projection import project_on_plane
from fairtat.attacks.autoattack.resumable import Columns, PausedSamples, Resumable, choose, lengths, per_image

_TINY = 1e-12


class Rates(NamedTuple):
    """The numbers of a FAB step."""

    alpha_max: float = 0.1
    eta: float = 1.05
    beta: float = 0.9


@dataclass(kw_only=True)
class FABSamples(PausedSamples):
    x_found: Tensor  # (N, ...) the nearest adversarial point
    distance: Tensor  # (N,) how far it is from the image
    iteration: Tensor  # (N,) int64: projections made
    fresh: Tensor  # (N,) bool: this point comes from a projection and has not been judged
    over: Tensor  # (N,) bool: the last one has been


class FABSteps(Resumable):
    samples_type = FABSamples

    def __init__(
        self, arena: Arena, columns: Columns, number: int, *, n_iter: int, rates: Rates, nearest_class: bool
    ) -> None:
        super().__init__(arena, columns, number)
        self.n_iter, self.rates, self.nearest_class = n_iter, rates, nearest_class

    def losses(self, logits: Tensor, samples: Any) -> tuple[Tensor, Tensor]:
        """The difference of the goal's and the label's logit; ``input_gradient`` may choose another goal."""
        z = logits if logits.dtype == torch.float64 else logits.float()
        classes = torch.arange(z.shape[1], device=z.device)
        label, goal = (classes == each[:, None] for each in (samples.y, samples.goal))
        return _pick(z, samples.goal) - _pick(z, samples.y), goal.to(logits.dtype) - label.to(logits.dtype)

    def input_gradient(self, logits: Tensor, dlogits: Tensor, leaf: Tensor) -> Tensor:
        if not self.nearest_class:
            return super().input_gradient(logits, dlogits, leaf)
        return self._towards_nearest(logits, leaf)

    def _towards_nearest(self, logits: Tensor, leaf: Tensor) -> Tensor:
        """The gradient of the difference whose plane is nearest, by one backward pass for each class."""
        y, z = self.looked_at.y, logits.detach()
        z = z if z.dtype == torch.float64 else z.float()
        classes = torch.arange(z.shape[1], device=z.device)
        label = (classes == y[:, None]).to(logits.dtype)
        best = torch.full_like(z[:, 0], torch.inf)
        difference, gradient = torch.zeros_like(best), torch.zeros_like(leaf, dtype=self.x.dtype)
        for k in range(logits.shape[1]):
            seed = (classes == k).to(logits.dtype) - label
            grad = _input_gradient(self, logits, seed, leaf).to(gradient.dtype)
            size = lengths(grad, "l2") if self.arena.norm == "l2" else grad.abs().sum(tuple(range(1, grad.ndim)))
            df = z[:, k] - _pick(z, y)
            away = torch.where(y == k, torch.inf, df.abs() / (size + _TINY))
            nearer = away < best
            best = torch.where(nearer, away, best)
            difference = torch.where(nearer, df, difference)
            gradient = choose(nearer, grad, gradient)
        self.looked_at.loss.copy_(difference)
        return gradient

    def move(self, samples: Any, grad: Tensor) -> Tensor:
        s, arena = samples, self.arena
        last = s.iteration >= self.n_iter
        hit = s.fresh & s.wrong & ~s.over
        away = lengths(s.x_adv - s.x, arena.norm)
        nearer = hit & (away < s.distance)
        s.x_found.copy_(choose(nearer, s.x_adv, s.x_found))
        s.distance.copy_(torch.where(nearer, away, s.distance))
        s.found |= nearer & (away <= s.eps)
        s.over |= last
        s.iteration += ~(hit | last)
        s.fresh.copy_(~hit)
        back = s.x + self.rates.beta * (s.x_adv - s.x)
        return choose(hit, back, self._projected(s, grad))

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
        return super().settings(), self.n_iter, self.rates, self.nearest_class


def _input_gradient(steps: FABSteps, logits: Tensor, dlogits: Tensor, leaf: Tensor) -> Tensor:
    """As the base class has it, with the graph kept for the next class."""
    (grad,) = torch.autograd.grad(logits, leaf, dlogits, retain_graph=True)
    if steps.std is not None:
        grad = grad / steps.std.view(-1, *[1] * (grad.ndim - 2))
    return grad


def _pick(z: Tensor, index: Tensor) -> Tensor:
    return z.gather(1, index[:, None])[:, 0]


def start(arena: Arena, rows: Tensor, goal: Tensor, stream: int, *, at_random: bool) -> Columns:
    """Where the samples begin: the image itself; at random: half of the radius away, in the norm."""
    x, eps, y = arena.x[rows], arena.eps[rows], arena.y[rows]
    x_adv = torch.empty_like(x).copy_(x)
    if at_random:
        noise = arena.noise(x, arena.ids[rows], stream, "uniform" if arena.norm == "linf" else "normal")
        noise = noise / per_image(lengths(noise, arena.norm).clamp_min(1e-30), x)
        x_adv = (x + per_image(eps / 2, x) * noise).clamp(arena.lo, arena.hi)
    count = torch.zeros_like(y)
    no = torch.zeros_like(y, dtype=torch.bool)
    number = torch.zeros_like(eps, dtype=torch.float64 if arena.logits.dtype == torch.float64 else torch.float32)
    return {
        "x": x, "y": y, "goal": goal, "eps": eps, "step": count, "loss": number, "wrong": no, "found": no.clone(),
        "x_adv": x_adv, "x_found": x_adv.clone(), "distance": torch.full_like(eps, torch.inf),
        "iteration": count.clone(), "fresh": no.clone(), "over": no.clone(),
    }  # fmt: skip
