"""Steps: an attack on one batch as the engines see it, anything that steps along a gradient taken from the logits.

The attack gives the loss, the step and the goal as a subclass; an engine decides how its steps run. All that changes
from step to step is in the tensors of `Samples`, so an engine may copy, pad, shrink or capture them without knowing
what they mean.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, NamedTuple, TypeVar, overload

import torch
from torch import Tensor
from typing_extensions import Self

from fairtat.engines.model.network import Network
from fairtat.ops._validate import in_memory

# Small gradients would vanish below float16's 6e-8. A power of two rounds nothing; signs do not feel it, and
# a step that uses the gradient's size gets it taken out again.
FLOAT16_SCALE = 2.0**10


class Span(NamedTuple):
    """One restart of some samples: rows of the batch, drawn from the restart's own stream."""

    restart: int
    rows: slice | Tensor  # an index where the rows are not consecutive

    def __len__(self) -> int:
        return len(self.rows) if isinstance(self.rows, Tensor) else self.rows.stop - self.rows.start

    def take(self, index: Tensor) -> Span:
        """The span of these samples of it."""
        rows = self.rows
        if isinstance(rows, Tensor):
            return Span(self.restart, rows[index])
        return Span(self.restart, index + rows.start if rows.start else index)


class Score(NamedTuple):
    """One forward pass and what the attack's loss says of it."""

    logits: Tensor  # (N, C)
    loss: Tensor  # (N,)
    dlogits: Tensor  # (N, C)
    pred: Tensor  # (N,)
    reached: Tensor  # (N,) bool: at the attack's goal

    def head(self, n: int) -> Score:
        return Score(*(t[:n] for t in self))


@dataclass(kw_only=True)
class Samples:
    """The samples of one pass: every tensor has a row for each. An attack adds tensors of its own."""

    spans: Sequence[Span]  # where they belong in the batch
    in_place: bool = False  # x_adv is memory of the attack's result itself
    x_adv: Tensor  # (N, ...)
    separate_input: Tensor | None = None  # (N, ...) the model's input, where it is not x_adv itself
    moving: Tensor | None = None  # (N,) bool: has not stopped; only with early stopping

    @property
    def model_input(self) -> Tensor:
        return self.x_adv if self.separate_input is None else self.separate_input

    def tensors(self) -> dict[str, Tensor]:
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {name: value for name, value in values if isinstance(value, Tensor)}

    def with_tensors(self, tensors: Mapping[str, Tensor], spans: Sequence[Span] = ()) -> Self:
        """The same with these tensors in the place of its own, for other spans."""
        absent: dict[str, Any] = {f.name: None for f in fields(self)}
        return type(self)(**{**absent, **tensors, "in_place": False, "spans": spans})

    def head(self, n: int, spans: Sequence[Span] = ()) -> Self:
        """The first n samples, for these spans, in the same memory."""
        return self.with_tensors({name: t[:n] for name, t in self.tensors().items()}, spans)

    def still_moving(self) -> Tensor | None:
        """The index of the samples that have not stopped; None: all of them. The host waits for the device."""
        assert self.moving is not None
        left = self.moving.nonzero()[:, 0]
        return None if len(left) == len(self.moving) else left

    def stopped(self) -> Tensor:
        """The index of those that have."""
        assert self.moving is not None
        return (~self.moving).nonzero()[:, 0]

    def keep(self, index: Tensor) -> None:
        """Let all samples except these leave."""
        for name, t in self.tensors().items():
            setattr(self, name, take(t, index))
        (span,) = self.spans  # samples leave only passes of one restart
        self.spans, self.in_place = [span.take(index)], False


S = TypeVar("S", bound=Samples)


class Steps(ABC, Generic[S]):
    """What an attack does to one batch, step by step."""

    steps: int  # to make
    stops_early: bool  # whether samples stop at their goal
    scored: bool  # whether anyone reads more of the result than x_adv
    shrinks: bool  # whether a sample that has stopped leaves the batch
    signs_only: bool  # whether a step uses nothing of the gradient but its signs
    x: Tensor  # (N, ...) the images
    mean: Tensor | None  # (C,) of the image, where the model's input is normalized
    std: Tensor | None  # (C,)
    classes: int = 0  # of the model, once it has been called

    def __init__(self, network: Network) -> None:
        self.network = network

    def constants(self) -> dict[str, Tensor]:
        """Tensors that are not per sample, by name."""
        return {name: t for name, t in (("mean", self.mean), ("std", self.std)) if t is not None}

    def look(self, samples: S) -> tuple[Tensor, Score]:
        """Forward pass: (what the gradient is taken with respect to, the score) of the samples where they are."""
        leaf = samples.model_input.detach().requires_grad_()
        score = self.score(self.network(leaf), samples)
        if samples.moving is not None:
            self.stop(samples, score)
        return leaf, score

    def gradient(self, leaf: Tensor, score: Score) -> Tensor:
        """Backward pass: the loss's gradient with respect to x_adv, laid out like ``leaf``."""
        return in_memory("the gradient of the model's input", self.input_gradient(score.logits, score.dlogits, leaf))

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
        (grad,) = torch.autograd.grad(logits, leaf, dlogits)
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
    def stop(self, samples: S, score: Score) -> None:
        """Early stopping, before a step: update ``moving``. No sample leaves yet."""

    @abstractmethod
    def step(self, samples: S, grad: Tensor, moving: Tensor | None) -> None:
        """Move x_adv along the gradient (laid out like it), and write the next model input.

        ``moving``: which samples move; None: all of them.
        """

    @abstractmethod
    def report(self, samples: S, score: Score) -> dict[str, Tensor]:
        """The columns of the result, beside x_adv, for samples that are done; "reached" is one of them."""

    @abstractmethod
    def better(self, new: Mapping[str, Tensor], old: Mapping[str, Tensor]) -> Tensor:
        """(N,) bool: which samples' new results replace those of an earlier restart."""

    @abstractmethod
    def logit_gradient(self, logits: Tensor, samples: S) -> Tensor:
        """``dlogits`` of the score in plain PyTorch operations, which can be traced."""

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


def count(spans: Sequence[Span]) -> int:
    return sum(map(len, spans))


def empty_rows(like: Tensor, n: int, dtype: torch.dtype | None = None) -> Tensor:
    """Uninitialized rows for n samples, laid out in memory as those of ``like``, which is dense by sample."""
    strides = (like.shape[1:].numel(), *like.stride()[1:])
    return torch.empty_strided((n, *like.shape[1:]), strides, dtype=dtype or like.dtype, device=like.device)


def take(t: Tensor, index: Tensor) -> Tensor:
    """``t[index]`` in the memory layout of ``t``, which indexing does not promise to keep."""
    return torch.index_select(t, 0, index, out=empty_rows(t, len(index)))


def laid_out_like(t: Tensor, like: Tensor) -> Tensor:
    """``t`` in the memory layout of ``like``; a copy only where it differs."""
    if t.stride() == like.stride():
        return t
    pairs = zip(t.shape, t.stride(), like.stride(), strict=True)
    if all(ours == theirs for size, ours, theirs in pairs if size > 1):
        return t
    return torch.empty_strided(like.shape, like.stride(), dtype=t.dtype, device=t.device).copy_(t)


@overload
def rows_of(t: Tensor, spans: Sequence[Span]) -> Tensor: ...
@overload
def rows_of(t: Tensor | None, spans: Sequence[Span]) -> Tensor | None: ...
def rows_of(t: Tensor | None, spans: Sequence[Span]) -> Tensor | None:
    """The spans' rows of a per-sample tensor, one after another; a view where they are consecutive."""
    if t is None:
        return None
    if len(spans) == 1 and isinstance(spans[0].rows, slice):
        return t[spans[0].rows]
    out = empty_rows(t, count(spans))
    copy_rows(out, t, spans)
    return out


def copy_rows(out: Tensor, t: Tensor, spans: Sequence[Span]) -> None:
    """The same into a tensor that is there."""
    for part, span in zip(out.split([len(span) for span in spans]), spans, strict=True):
        if isinstance(span.rows, slice):
            part.copy_(t[span.rows])
        else:
            torch.index_select(t, 0, span.rows, out=part)
