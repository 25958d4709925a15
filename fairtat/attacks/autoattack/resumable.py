"""Steps that can pause: all that an attack remembers of a sample is in columns, one row per sample.

An attack runs some steps on the engine that was asked for, hands its columns back, and goes on with them later, beside
other samples than before. So samples that are done leave, others take their place, and every sample may be at another
step of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from fairtat.attacks.autoattack.arena import Arena
from fairtat.engines.model.network import Network
from fairtat.engines.realized import realized
from fairtat.engines.samples import Samples, Score, Span, copy_rows, count, empty_rows, gather
from fairtat.engines.steps import Steps

Columns = dict[str, Tensor]
TINY = 1e-12


@dataclass(kw_only=True)
class PausedSamples(Samples):
    """What every attack of this folder knows of a sample."""

    x: Tensor  # (N, ...) the image
    y: Tensor  # (N,) its label
    goal: Tensor  # (N,) the class to move towards; the label, where any other class will do
    eps: Tensor  # (N,)
    step: Tensor  # (N,) int64: points looked at before this one
    # Of the last point looked at:
    loss: Tensor  # (N,) what the attack raises
    wrong: Tensor  # (N,) bool: the point is at the attack's goal
    found: Tensor  # (N,) bool: some point was


class Resumable(Steps[PausedSamples]):
    """Some steps from where the columns left off. ``look`` is the only forward pass of a step."""

    stops_early, scored, shrinks = False, True, False
    kernels = None
    samples_type: ClassVar[type[PausedSamples]]
    looked_at: Any  # the samples of the pass that a gradient is wanted of
    fixed: ClassVar[frozenset[str]] = frozenset({"x", "y", "goal", "eps"})  # columns that no step writes

    def __init__(self, arena: Arena, columns: Columns, number: int) -> None:
        self.arena, self.columns, self.number = arena, columns, number
        self.network = arena.network
        self.mean, self.std = arena.mean, arena.std
        self.x = columns["x"]
        self.signs_only = False

    def losses(self, logits: Tensor, samples: Any) -> tuple[Tensor, Tensor]:
        """What the attack raises (N,), in plain PyTorch operations, and its gradient to the logits (N, C)."""
        raise NotImplementedError

    def move(self, samples: Any, grad: Tensor) -> Tensor:
        """Take note of the point that was looked at, in the samples' tensors, and return the next one."""
        raise NotImplementedError

    def begin(self, spans: Sequence[Span], x_adv: Tensor | None = None, *, expand: bool = False) -> PausedSamples:
        given = gather({name: self.columns[name] for name in self.fixed}, spans)
        n = count(spans)
        own = {name: empty_rows(t, n) for name, t in self.columns.items() if name not in self.fixed}
        samples = self._samples({**given, **own, **({} if x_adv is None else {"x_adv": x_adv})}, spans)
        samples.in_place = x_adv is not None
        self.restart(samples)
        return samples

    def room(self, size: int) -> PausedSamples:
        return self._samples({name: empty_rows(t, size).zero_() for name, t in self.columns.items()}, ())

    def _samples(self, columns: Mapping[str, Tensor], spans: Sequence[Span]) -> PausedSamples:
        given: dict[str, Any] = dict(columns)
        if self.mean is not None or self.network.input_dtype != self.x.dtype:
            x = columns["x_adv"]
            given["separate_input"] = empty_rows(x, len(x), self.network.input_dtype).zero_()
        return self.samples_type(spans=spans, **given)

    def fill(self, samples: PausedSamples, spans: Sequence[Span]) -> None:
        for name in self.fixed:
            copy_rows(getattr(samples, name), self.columns[name], spans)
        self.restart(samples)

    def restart(self, samples: PausedSamples) -> None:
        for name, t in self.columns.items():
            if name not in self.fixed:
                copy_rows(getattr(samples, name), t, samples.spans)
        self._write_input(samples)

    def _write_input(self, samples: PausedSamples) -> None:
        if samples.separate_input is None:
            return
        given = samples.x_adv
        if self.mean is not None and self.std is not None:
            shape = (1, -1, *[1] * (given.ndim - 2))
            given = (given - self.mean.view(shape)) / self.std.view(shape)
        samples.separate_input.copy_(given)

    def score(self, logits: Tensor, samples: PausedSamples) -> Score:
        dlogits = self.logit_gradient(logits, samples)
        self.classes = logits.shape[1]
        return Score(logits, samples.loss, dlogits, logits.detach().argmax(1), samples.wrong)

    def logit_gradient(self, logits: Tensor, samples: PausedSamples) -> Tensor:
        self.looked_at = samples
        z = logits.detach()
        z = z.float() if z.dtype == torch.float16 else z
        loss, gradient = self.losses(z, samples)
        samples.loss.copy_(loss)
        samples.wrong.copy_(self.at_goal(z, samples))
        return gradient

    def at_goal(self, logits: Tensor, samples: PausedSamples) -> Tensor:
        """(N,) bool: these logits are of the class to reach, or of any other than the label."""
        pred = logits.argmax(1)
        return pred == samples.goal if self.arena.target is not None else pred != samples.y

    def logits_at(self, samples: PausedSamples) -> Tensor:
        """Logits (N, C) of the points where the samples are now: a forward pass, for a step that wants one more."""
        self._write_input(samples)
        return self.network(samples.model_input)

    def input_gradient(self, logits: Tensor, dlogits: Tensor, leaf: Tensor) -> Tensor:
        """In memory: the moves read it often, and the last layer's gradient may be costly to index."""
        return realized(super().input_gradient(logits, dlogits, leaf))

    def check_classes(self, classes: int) -> None:
        """The arena has checked them."""

    def stop(self, samples: PausedSamples, reached: Tensor) -> None:
        raise AssertionError("samples leave between runs, not between steps")

    @torch.no_grad()
    def step(self, samples: PausedSamples, grad: Tensor, moving: Tensor | None) -> None:
        samples.x_adv.copy_(self.move(samples, grad))
        samples.step += 1
        self._write_input(samples)

    def judge(self, samples: PausedSamples) -> Score:
        """What the last step went by: the next run looks at the point where this one ends."""
        return Score(samples.loss[:, None], samples.loss, samples.loss[:, None], samples.y, samples.wrong)

    def report(self, samples: PausedSamples, score: Score) -> Columns:
        skipped = self.fixed | {"x_adv"}
        return {name: getattr(samples, name) for name in self.columns if name not in skipped}

    def better(self, new: Mapping[str, Tensor], old: Mapping[str, Tensor]) -> Tensor:
        raise AssertionError("there is one run per sample")

    def rebound(self, network: Network, mean: Tensor | None, std: Tensor | None, *, traceable: bool = False) -> Self:
        other = copy.copy(self)
        other.network, other.mean, other.std = network, mean, std
        return other

    def settings(self) -> Hashable:
        layouts = tuple((name, t.dtype, t.shape[1:], t.stride()[1:]) for name, t in self.columns.items())
        arena = self.arena
        fixed = (arena.norm, arena.lo, arena.hi, arena.target is not None, arena.amp, arena.mean is None)
        return type(self).__name__, self.number, fixed, layouts


def before_looking(arena: Arena, rows: Tensor, goal: Tensor, x_adv: Tensor) -> Columns:
    """The columns of `PausedSamples` for these rows of the batch, at the points (n, ...) where they begin."""
    y = arena.y[rows]
    precise = torch.float64 if arena.logits.dtype == torch.float64 else torch.float32
    no = torch.zeros_like(y, dtype=torch.bool)
    return {
        "x": arena.x[rows], "y": y, "goal": goal, "eps": arena.eps[rows], "x_adv": x_adv, "step": torch.zeros_like(y),
        "loss": torch.zeros_like(y, dtype=precise), "wrong": no, "found": no.clone(),
    }  # fmt: skip


def over(columns: Columns) -> Tensor:
    """(n,) bool: which samples have said themselves that they are done."""
    return columns["over"]


def per_image(t: Tensor, like: Tensor) -> Tensor:
    """(N,) as (N, 1, ...), to go with images."""
    return t.view(-1, *[1] * (like.ndim - 1))


def choose(where: Tensor, images: Tensor, otherwise: Tensor) -> Tensor:
    """Whole images by (N,) bool."""
    return torch.where(per_image(where, images), images, otherwise)


def lengths(delta: Tensor, norm: str) -> Tensor:
    """(N,) the norm of each perturbation."""
    dims = tuple(range(1, delta.ndim))
    return delta.abs().amax(dims) if norm == "linf" else delta.square().sum(dims).sqrt()


def steepest(grad: Tensor, norm: str) -> Tensor:
    """The perturbation of length 1 along which a function with this gradient rises most."""
    return grad.sign() if norm == "linf" else grad / (per_image(lengths(grad, "l2"), grad) + TINY)


def project(z: Tensor, x: Tensor, eps: Tensor, arena: Arena) -> Tensor:
    """``z`` on the ball of radius ``eps`` (N,) around x, then on the bounds."""
    radius = per_image(eps, x)
    if arena.norm == "linf":
        z = torch.minimum(torch.maximum(z, x - radius), x + radius)
    else:
        delta = z - x
        size = per_image(lengths(delta, "l2"), x)
        z = torch.where(size > radius, x + delta * (radius / size), z)
    return z.clamp(arena.lo, arena.hi)
