"""The eager loop, and the steps it makes: any attack that steps along a gradient taken from the logits.

The attack gives the loss, the step and the goal as a subclass; an engine decides how its steps run. All that changes
from step to step is in the tensors of `Samples`, so an engine may copy, pad, shrink or capture them without knowing
what they mean.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor
from typing_extensions import Self

from fairtat.checks import in_memory
from fairtat.engines.model.network import Network
from fairtat.engines.samples import Results, Samples, Score, Span, take

S = TypeVar("S", bound=Samples)

# Small gradients would vanish below float16's 6e-8. A power of two rounds nothing; signs do not feel it, and
# a step that uses the gradient's size gets it taken out again.
FLOAT16_SCALE = 2.0**10


def run_eagerly(steps: Steps[S], spans: Sequence[Span], results: Results) -> None:
    """Attack the samples of these spans by plain PyTorch passes: the loop that every engine has to reproduce.

    K steps cost K forwards and K backwards to the input. The gradient starts from the logits, so there is no
    autograd graph of the loss, and with frozen parameters none of a weight.
    """
    x_adv = results.columns["x_adv"][spans[0].rows] if results.in_place else None
    samples = steps.begin(spans, x_adv)
    for step in range(steps.number):
        leaf, score = steps.look(samples)
        if steps.watch is not None:
            steps.watch(step, samples.x_adv, score.logits.detach())
        left = samples.still_moving() if steps.shrinks else None
        if left is not None:
            results.write(samples, steps.report(samples, score), samples.stopped())
            if len(left) == 0:
                return
        grad = steps.gradient(leaf, score)
        del leaf, score  # so that the graph is gone before the next one grows
        if left is not None:
            grad = take(grad, left)
            samples.keep(left)
        if steps.draws > 1:
            grad = steps.mean_gradient(samples, grad)
        steps.step(samples, grad, None if steps.shrinks else samples.moving)
    results.write(samples, steps.report(samples, steps.judge(samples)) if steps.scored else {})


class Steps(ABC, Generic[S]):
    """What an attack does to one batch, step by step."""

    network: Network
    number: int  # of steps to make
    stops_early: bool  # whether samples stop at their goal
    scored: bool  # whether anyone reads more of the result than x_adv
    shrinks: bool  # whether a sample that has stopped leaves the batch
    signs_only: bool  # whether a step uses nothing of the gradient but its signs
    eager_only: str | None = None  # why only plain PyTorch passes can make the steps
    several: bool = False  # whether a pass gives several gradients, so that its graph is kept until it is left
    watch: Callable[[int, Tensor, Tensor], None] | None = None  # told, before each step, where the samples are
    draws: int = 1  # of a model that draws random numbers, whose mean gradient a step goes along
    x: Tensor  # (N, ...) the images
    mean: Tensor | None  # (C,) of the image, where the model's input is normalized
    std: Tensor | None  # (C,)
    classes: int = 0  # of the model, once it has been called

    def constants(self) -> dict[str, Tensor]:
        """Tensors that are not per sample, by name."""
        return {name: t for name, t in (("mean", self.mean), ("std", self.std)) if t is not None}

    def look(self, samples: S) -> tuple[Tensor, Score]:
        """Forward pass: (what the gradient is taken with respect to, the score) of the samples where they are."""
        leaf = samples.model_input.detach().requires_grad_()
        score = self.score(self.network(leaf), samples)
        if samples.moving is not None:
            self.stop(samples, score.reached)
        return leaf, score

    def gradient(self, leaf: Tensor, score: Score) -> Tensor:
        """Backward pass: the loss's gradient with respect to x_adv, laid out like ``leaf``."""
        grad = self.input_gradient(score.logits, score.dlogits, leaf)
        if type(grad) is Tensor and grad.data_ptr() and not grad.is_neg():
            return grad
        return in_memory("the gradient of the model's input", grad)

    def mean_gradient(self, samples: S, first: Tensor) -> Tensor:
        """The mean of the first draw's gradient and those of more passes, which stop no sample and write no buffer."""
        total = first.to(torch.promote_types(first.dtype, torch.float32), copy=True)
        for _ in range(self.draws - 1):
            leaf = samples.model_input.detach().requires_grad_()
            with self.network.state.statistics_held():
                score = self.score(self.network(leaf), samples)
            total += self.gradient(leaf, score)
        return total.div_(self.draws)

    def advance(self, samples: S) -> tuple[Score, Tensor]:
        """Make one step in place, and return what it went by: score and gradient.

        A sample that has stopped stays unmoved: nothing asks the device, and ranks keep in step.
        """
        leaf, score = self.look(samples)
        grad = self.gradient(leaf, score)
        score = score._replace(logits=score.logits.detach())
        del leaf
        self.step(samples, grad, samples.moving)
        return score, grad

    def judge(self, samples: S) -> Score:
        """The score of the samples where they are, without a gradient."""
        with torch.no_grad(), self.network.state.statistics_held():
            return self.score(self.network(samples.model_input), samples)

    def input_gradient(
        self,
        logits: Tensor,  # (N, C) with a graph to leaf
        dlogits: Tensor,  # (N, C)
        leaf: Tensor,  # (N, ...)
    ) -> Tensor:
        """d loss / d x_adv, up to a positive factor where only the sign counts, laid out like ``leaf``."""
        if not logits.requires_grad:
            raise RuntimeError(
                "the model's output has no gradient with respect to its input: its forward must not run under "
                "torch.no_grad() or detach what it returns"
            )
        scaled = self.network.float16 or logits.dtype == torch.float16
        if scaled:
            dlogits = (dlogits * FLOAT16_SCALE).to(logits.dtype)
        (grad,) = torch.autograd.grad(logits, leaf, dlogits, retain_graph=self.several)
        if not self.signs_only:
            if scaled:
                grad = grad.float() / FLOAT16_SCALE
            if self.std is not None:
                grad = grad / self.std.view(-1, *[1] * (grad.ndim - 2))
        return laid_out_like(grad, leaf)

    @abstractmethod
    def begin(self, spans: Sequence[Span], x_adv: Tensor | None = None, *, expand: bool = False) -> S:
        """The samples of these spans at their start, in ``x_adv`` if that is given.

        ``expand``: numbers that are the same for all samples become tensors too.
        """

    @abstractmethod
    def room(self, size: int) -> S:
        """Tensors for so many samples, expanded, to be filled; rows that no sample fills are valid inputs."""

    @abstractmethod
    def fill(self, samples: S, spans: Sequence[Span]) -> None:
        """Copy the samples of these spans into expanded tensors, at their start."""

    @abstractmethod
    def restart(self, samples: S) -> None:
        """Put samples back at their start."""

    @abstractmethod
    def score(self, logits: Tensor, samples: S) -> Score:
        """The loss and its gradient with respect to the logits."""

    @abstractmethod
    def check_classes(self, classes: int) -> None:
        """Raise ValueError where a model with so many classes cannot be attacked this way."""

    @abstractmethod
    def stop(self, samples: S, reached: Tensor) -> None:
        """Early stopping, before a step: update ``moving`` by which samples are at their goal. None leaves yet."""

    @abstractmethod
    def step(self, samples: S, grad: Tensor, moving: Tensor | None) -> None:
        """Move x_adv along the gradient (laid out like it), and write the next model input.

        ``moving``: which samples move; None: all of them.
        """

    @abstractmethod
    def report(self, samples: S, score: Score) -> dict[str, Tensor]:
        """The columns of the result beside x_adv, "reached" among them; none if nothing reads them."""

    @abstractmethod
    def better(self, new: Mapping[str, Tensor], old: Mapping[str, Tensor]) -> Tensor:
        """(N,) bool: which samples' new results replace those of an earlier restart."""

    @abstractmethod
    def logit_gradient(self, logits: Tensor, samples: S) -> Tensor:
        """``dlogits`` of the score in plain PyTorch operations, which can be traced."""

    def reached(self, logits: Tensor, samples: S) -> Tensor:
        """(N,) bool: the score's ``reached`` in plain PyTorch operations. Steps that stop early have it."""
        raise NotImplementedError

    @abstractmethod
    def rebound(self, network: Network, mean: Tensor | None, std: Tensor | None, *, traceable: bool = False) -> Self:
        """The same steps on another network and normalization; ``traceable``: by plain PyTorch operations."""

    @abstractmethod
    def settings(self) -> Hashable:
        """All that the work of a step depends on, except the model and the number of samples."""

    @property
    @abstractmethod
    def kernels(self) -> Hashable:
        """Which kernels make a step."""


def laid_out_like(t: Tensor, like: Tensor) -> Tensor:
    """``t`` in the memory layout of ``like``; a copy only where it differs."""
    if t.stride() == like.stride():
        return t
    pairs = zip(t.shape, t.stride(), like.stride(), strict=True)
    if all(ours == theirs for size, ours, theirs in pairs if size > 1):
        return t
    return torch.empty_strided(like.shape, like.stride(), dtype=t.dtype, device=t.device).copy_(t)
