"""Whether a program or a graph computes what the model computes now: its first pass beside one of plain PyTorch.

What decides is the logits and the gradient of the first pass, before a step has been made. A step in Linf keeps the
signs of the gradient alone, which flip wherever rounding crosses zero and take the later steps with them: images that
differ in a percent of their pixels say nothing. Logits and gradients are the same up to rounding, or the model is not.

But a ReLU whose input lies within a rounding of zero is on in one computation and off in the other, and then the
gradient of that sample is another one; among a few dozen images a ResNet-18 has such units. So where samples differ,
the model is asked whether it differs from itself on them, when its input moves by a few roundings.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fairtat.engines.model.random_numbers import borrowed, start_of_stream
from fairtat.engines.samples import Samples
from fairtat.engines.steps import Steps

MISMATCH = "what was built computes something else than the model"
CHANGES = "the model computes something else at every call"

MAX_ENTRIES = 16  # of an image's gradient, or one of each row: keeping all would take the memory of a batch
ROUNDINGS = 4  # a program may be off by so many times what a moved input changes: it has many roundings
# By how many roundings the input is moved, first up, then down. The larger moves switch nearly every unit that a
# program's roundings switch.
NUDGES = (1, -1, 8, -8, 8, -8, 8, -8, 8, -8)


class Probe(NamedTuple):
    """What the first pass of an attack found."""

    logits: Tensor  # (N, C)
    gradient: Tensor  # (N, ...) some entries of the gradient to the model's input

    def head(self, n: int) -> Probe:
        return Probe(self.logits[:n], self.gradient[:n])


def probe(logits: Tensor, grad: Tensor) -> Probe:
    """What is kept of a pass to be compared."""
    entries = -(-grad.shape[1:].numel() // MAX_ENTRIES)
    return Probe(logits.detach(), grad[..., ::entries].clone())


class FirstPass:
    """The eager engine's first pass of some samples, to compare an engine's own with.

    The samples are at their start. Buffers and generators are left as they are.
    """

    def __init__(self, steps: Steps[Any], samples: Samples, buffers: Iterable[Tensor]) -> None:
        self._steps = steps
        self._samples = samples
        self._buffers = [(t, t.clone()) for t in buffers]
        self._generators = [(generator, generator.get_state()) for generator in borrowed(steps.x)]
        self._expected = self._pass()
        # A model that was not known to draw has been given its stream by this very pass.
        self._generators = self._generators or [(g, start_of_stream(g)) for g in borrowed(steps.x)]
        self.restore()

    def confirms(self, found: Probe) -> bool | None:
        """Whether this is the same computation; None: it is, but telling took further passes, and all is at its start.

        It is the same if both agree in half of the digits of their precision. If not, every sample must agree so, or
        better than the model agrees with itself on it when its input moves by some roundings and its random numbers
        are others.
        """
        found = found.head(len(self._expected.logits))
        eps = max(torch.finfo(t.dtype).eps for t in (found.logits, torch.empty(0, dtype=self._steps.network.precision)))
        if all(_distance(a, b) <= eps**0.5 for a, b in zip(found, self._expected, strict=True)):
            return True
        if any(a.shape != b.shape for a, b in zip(found, self._expected, strict=True)):
            return False
        apart = _of_samples(found, self._expected)
        own = torch.full_like(apart, eps**0.5 / ROUNDINGS)
        for number, roundings in enumerate(NUDGES):
            self._restore_buffers()
            self._steps.restart(self._samples)
            moved = self._pass(roundings * eps, number // 2)
            own = torch.maximum(own, _of_samples(moved, self._expected))
            if (apart <= ROUNDINGS * own).all():
                self.restore()
                return None
        self.restore()
        return False

    def restore(self) -> None:
        """Put buffers and generators back."""
        self._restore_buffers()
        for generator, state in self._generators:
            generator.set_state(state)

    def _pass(self, nudge: float = 0.0, pattern: int = 0) -> Probe:
        """The pass of a step that is not made; ``nudge`` moves the input by that share of each pixel, up or down.

        It moves the logits as well, since losses have roundings of their own: those of TRADES' divergence, which is
        nearly none where an attack begins, are most of its gradient.
        """
        steps = self._steps
        leaf = self._samples.model_input.detach()
        generator = torch.Generator().manual_seed(pattern)
        if nudge:
            leaf = leaf * (1 + nudge * _signs(leaf, generator))
        leaf.requires_grad_()
        with steps.network.state.statistics_held():
            logits = steps.network(leaf)
            if nudge:
                logits = logits + nudge * _signs(logits, generator) * logits.detach().abs().clamp_min(1.0)
            score = steps.score(logits, self._samples)
        return probe(score.logits, steps.gradient(leaf, score))

    def _restore_buffers(self) -> None:
        with torch.no_grad():
            for tensor, value in self._buffers:
                tensor.copy_(value)


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """As many numbers, 1 or -1."""
    return torch.randint(0, 2, like.shape, generator=generator, dtype=torch.int8).mul_(2).sub_(1).to(like)


def _of_samples(found: Probe, expected: Probe) -> Tensor:
    """(2, N): how far each sample's logits and gradient are apart, relative to its own or to the batch's usual size.

    So what hardly moves a step decides nothing, such as the gradient of a sample that is classified without a doubt.
    """
    rows = []
    for a, b in zip(found, expected, strict=True):
        odd, same = _odd(a, b)
        a, b = (t.double().masked_fill(odd, 0.0).flatten(1) for t in (a, b))
        size = torch.maximum(a.norm(dim=1), b.norm(dim=1))
        usual = size.square().mean().sqrt().clamp_min(torch.finfo(torch.float64).tiny)
        apart = (a - b).norm(dim=1) / torch.maximum(size, usual)
        rows.append(torch.where(same.flatten(1).all(dim=1), apart, torch.inf))
    return torch.stack(rows)


def _odd(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """(What is not finite in either, where both are finite or the same)."""
    odd = ~(a.isfinite() & b.isfinite())
    return odd, ~odd | (a == b) | (a.isnan() & b.isnan())


def _distance(found: Tensor, expected: Tensor) -> float:
    """Relative, over the batch; what is not finite has to be the same."""
    if found.shape != expected.shape:
        return torch.inf
    a, b = found.double(), expected.double()
    odd, same = _odd(a, b)
    a, b = a.masked_fill(odd, 0.0), b.masked_fill(odd, 0.0)
    size = torch.maximum(a.norm(), b.norm()).clamp_min(torch.finfo(torch.float64).tiny)
    return float(torch.where(same.all(), (a - b).norm() / size, torch.inf))
