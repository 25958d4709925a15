"""The samples of one pass, and the results of all: per-sample tensors, whatever they mean to an attack."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import Self


class Span(NamedTuple):
    """One restart of some samples: rows of the batch, drawn from the restart's own stream."""

    restart: int
    rows: slice | Tensor  # an index where the rows are not consecutive
    size: int

    def take(self, index: Tensor) -> Span:
        """The span of these samples of it."""
        rows = self.rows
        if isinstance(rows, Tensor):
            return Span(self.restart, rows[index], len(index))
        return Span(self.restart, index + rows.start if rows.start else index, len(index))


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
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def with_tensors(self, tensors: Mapping[str, Tensor], spans: Sequence[Span] = ()) -> Self:
        """The same with these tensors in the place of its own, for other spans."""
        absent: dict[str, Any] = dict.fromkeys(vars(self))
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


@dataclass
class Results:
    """Columns with one row for each sample of the batch: the result of its best restart so far."""

    columns: dict[str, Tensor]  # x_adv, uninitialized, and what comes to be reported
    in_place: bool  # there is one restart, so a pass works on its rows of x_adv itself, and nothing is copied
    # (N,) bool: which samples' new columns replace those of an earlier restart
    better: Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]

    def write(self, samples: Samples, report: Mapping[str, Tensor], index: Tensor | None = None) -> None:
        """Write x_adv and a report of the samples that are done (None: all of them) as they are now."""
        new, spans = dict(report), samples.spans
        if not samples.in_place:
            new["x_adv"] = samples.x_adv
        if index is not None:
            (span,) = spans  # samples leave only passes of one restart
            new, spans = {name: t[index] for name, t in new.items()}, [span.take(index)]
        for name in new.keys() - self.columns.keys():
            t = new[name]
            self.columns[name] = t.new_empty((len(self.columns["x_adv"]), *t.shape[1:]))
        offset = 0
        for span in spans:
            self._write(span, {name: t[offset : offset + span.size] for name, t in new.items()})
            offset += span.size

    def _write(self, span: Span, new: dict[str, Tensor]) -> None:
        better = None
        if span.restart > 0:
            old = {name: self.columns[name][span.rows] for name in new}
            better = self.better(new, old)
        for name, value in new.items():
            if better is not None:
                value = torch.where(better.view(-1, *[1] * (value.ndim - 1)), value, old[name])
            self.columns[name][span.rows] = value


def count(spans: Sequence[Span]) -> int:
    return sum(span.size for span in spans)


def empty_rows(like: Tensor, n: int, dtype: torch.dtype | None = None) -> Tensor:
    """Uninitialized rows for n samples, laid out in memory as those of ``like``, which is dense by sample."""
    strides = (like.shape[1:].numel(), *like.stride()[1:])
    return torch.empty_strided((n, *like.shape[1:]), strides, dtype=dtype or like.dtype, device=like.device)


def take(t: Tensor, index: Tensor) -> Tensor:
    """``t[index]`` in the memory layout of ``t``, which indexing does not promise to keep."""
    return torch.index_select(t, 0, index, out=empty_rows(t, len(index)))


def gather(tensors: Mapping[str, Tensor | None], spans: Sequence[Span]) -> dict[str, Any]:
    """The spans' rows of each per-sample tensor, one after another; views where they are consecutive."""
    if len(spans) == 1 and isinstance(spans[0].rows, slice):
        rows = spans[0].rows
        return {name: None if t is None else t[rows] for name, t in tensors.items()}
    return {name: None if t is None else _gathered(t, spans) for name, t in tensors.items()}


def _gathered(t: Tensor, spans: Sequence[Span]) -> Tensor:
    out = empty_rows(t, count(spans))
    copy_rows(out, t, spans)
    return out


def copy_rows(out: Tensor, t: Tensor, spans: Sequence[Span]) -> None:
    """Copy the spans' rows of a per-sample tensor, one after another."""
    for part, span in zip(out.split([span.size for span in spans]), spans, strict=True):
        if isinstance(span.rows, slice):
            part.copy_(t[span.rows])
        else:
            torch.index_select(t, 0, span.rows, out=part)
