"""The passes that an attack makes through the model, whichever engine steps them.

With R restarts of N samples, virtual sample v = r*N + i is restart r of sample i. A pass takes at most
``chunk_size`` consecutive virtual samples; what comes out is merged into one result a sample. Where samples leave
early, restarts take turns instead, each over the samples that none before it brought to their goal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from types import EllipsisType
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor

from fairtat import backends
from fairtat.attacks.batch import Batch
from fairtat.attacks.network import InputWritten, Network
from fairtat.attacks.options import AttackOptions
from fairtat.attacks.result import AttackResult


@dataclass
class Pass:
    """The samples of one pass and what the kernels need of each: every tensor has a row for each sample."""

    x_adv: Tensor
    x: Tensor
    goal: Tensor
    y: Tensor | None
    clean_logits: Tensor | None
    eps_n: Tensor | None
    step_n: Tensor | None
    separate_input: Tensor | None  # the model's input, where it is not x_adv itself
    zero_grad: Tensor | None  # counted only where someone will read it
    row: Tensor | None = None  # once samples have left: where in the whole pass these lie
    # With early_stop:
    moving: Tensor | None = None  # (N,) bool: has not stopped
    taken: Tensor | None = None  # (N,) int64: steps made
    extra: Tensor | None = None  # (N,) int64: steps that may still be made at the goal

    def __post_init__(self) -> None:
        self.plan: Callable[[Tensor], None] | None = None  # of a step, with all but the gradient bound

    @property
    def model_input(self) -> Tensor:
        return self.x_adv if self.separate_input is None else self.separate_input

    def note(self, reached: Tensor) -> None:
        """Early stopping, before a step: who is at the goal uses up an extra step, or stops. Nothing leaves yet."""
        assert self.moving is not None
        assert self.taken is not None
        assert self.extra is not None
        self.moving &= ~(reached & (self.extra <= 0))
        self.extra -= reached.long()
        self.taken += self.moving

    def keep(self, index: Tensor) -> None:
        """Let all samples but these leave."""
        if self.row is None:
            self.row = torch.arange(len(self.goal), device=index.device)
        for name, value in self.tensors():
            setattr(self, name, take(value, index))
        self.plan = None

    def head(self, n: int) -> Pass:
        """The first n samples, in the same memory."""
        return Pass(**{**_NO_TENSORS, **{name: value[:n] for name, value in self.tensors()}})  # type: ignore[arg-type]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None:
                yield f.name, value


_NO_TENSORS = dict.fromkeys(f.name for f in fields(Pass))


class Span(NamedTuple):
    """A restart of some samples: rows of the batch, drawn from the restart's own stream."""

    restart: int
    rows: slice | Tensor  # an index, where some samples are done with

    def __len__(self) -> int:
        return len(self.rows) if isinstance(self.rows, Tensor) else self.rows.stop - self.rows.start


# From the spans of a pass, and the room for its images where that is in the result itself.
Descend = Callable[[Sequence["Span"], "Tensor | None"], "AttackResult | None"]


class Attack:
    """One call of an attack: its batch cut into passes, each handed to an engine's ``descend``."""

    def __init__(self, network: Network, batch: Batch, options: AttackOptions, seed: int) -> None:
        self.network = network
        self.batch = batch
        self.options = options
        self.seed = seed
        x, backend = batch.x, options.backend
        # A float64 model under float32 images hands float64 gradients to the step: a matter for the reference.
        widest = torch.float64 if network.input_dtype == torch.float64 else x.dtype
        self.kernels = (
            backends.choose("pgd_step", x.device, widest, backend),
            backends.choose("pgd_init", x.device, x.dtype, backend),
        )
        self._step = backends.kernel("pgd_step", self.kernels[0])
        self._init = backends.kernel("pgd_init", self.kernels[1])
        self.scored = options.return_info or options.restarts > 1
        # Elsewhere a sample that has stopped stays, unmoved: batch statistics must not change.
        self.shrinks = options.early_stop and options.bn_mode == "eval"

    def run(self, descend: Descend) -> Tensor | AttackResult:
        """Attack every pass. ``descend`` attacks the samples of its spans and reports if the attack is ``scored``."""
        n, restarts = self.batch.x.shape[0], self.options.restarts
        x_adv = empty_rows(self.batch.x, n)
        if n == 0:
            return self._nothing(x_adv)
        kept = _Kept(x_adv, self.options)
        for spans in self._in_turn(kept) if self.shrinks and restarts > 1 else self._folded():
            # Without restarts a pass works on its rows of the result itself, so that nothing is copied.
            room = x_adv[spans[0].rows] if restarts == 1 else None
            try:
                outcome = descend(spans, room)
            except InputWritten:  # so the pass starts again, and the model is given copies
                outcome = descend(spans, room)
            if outcome is not None:
                kept.offer(spans, outcome)
        return kept.result() if self.options.return_info else x_adv

    def _folded(self) -> Iterator[Sequence[Span]]:
        """All restarts as one long batch, in passes of at most ``chunk_size``."""
        n = self.batch.x.shape[0]
        total = n * self.options.restarts
        size = min(self.options.chunk_size or total, total)
        for begin in range(0, total, size):
            yield list(_spans(begin, min(begin + size, total), n))

    def _in_turn(self, kept: _Kept) -> Iterator[Sequence[Span]]:
        """One restart after another, each for the samples that are not at their goal yet."""
        n = self.batch.x.shape[0]
        size = min(self.options.chunk_size or n, n)
        yield from ([Span(0, slice(begin, min(begin + size, n)))] for begin in range(0, n, size))
        for restart in range(1, self.options.restarts):
            # The host has to know how many there are.
            rows = (~kept.result().reached).nonzero()[:, 0]
            yield from ([Span(restart, part)] for part in rows.split(size) if len(part))

    def step(self, work: Pass, grad: Tensor) -> None:
        """Move ``work`` along ``grad`` (laid out like x_adv) and write the next model input."""
        if work.plan is None:
            arguments = self._step_arguments(work, ..., work.step_n, self.batch.step)
            work.plan = backends.plan("pgd_step", self.kernels[0], *arguments)
        work.plan(grad)

    def step_by(self, work: Pass, grad: Tensor, step_n: Tensor | None, step: float = 0.0) -> None:
        """The same by other steps than those of the attack."""
        self._step(*self._step_arguments(work, grad, step_n, step))

    def _step_arguments(
        self, work: Pass, grad: Tensor | EllipsisType, step_n: Tensor | None, step: float
    ) -> tuple[Any, ...]:
        b, o = self.batch, self.options
        return (
            work.x_adv, grad, work.x, work.eps_n, b.eps, step_n, step, o.targeted, o.norm, *o.bounds,
            work.separate_input, b.mean, b.std, work.zero_grad,
        )  # fmt: skip

    def begin(self, spans: Sequence[Span], room: Tensor | None) -> Pass:
        """The samples of these spans, each at its start."""
        b = self.batch
        x = _rows(b.x, spans)
        work = Pass(
            x_adv=empty_rows(x, x.shape[0]) if room is None else room,
            x=x,
            goal=_rows(b.goal, spans),
            y=_rows(b.y, spans),
            clean_logits=_rows(b.clean_logits, spans),
            eps_n=_rows(b.eps_n, spans),
            step_n=_rows(b.step_n, spans),
            separate_input=empty_rows(x, x.shape[0], self.network.input_dtype) if self.separate_input else None,
            zero_grad=None,
        )
        self.add_counters(work)
        self._start(work, spans)
        return work

    def fill(self, work: Pass, spans: Sequence[Span]) -> None:
        """The same in tensors that are there already, with a radius and a step for each sample."""
        b = self.batch
        for room, given in (
            (work.x, b.x),
            (work.goal, b.goal),
            (work.y, b.y),
            (work.clean_logits, b.clean_logits),
            (work.eps_n, b.eps if b.eps_n is None else b.eps_n),
            (work.step_n, b.step if b.step_n is None else b.step_n),
            (work.zero_grad, 0),
            (work.moving, True),
            (work.taken, 0),
            (work.extra, self.options.extra_steps),
        ):
            if room is None:
                continue
            if isinstance(given, Tensor):
                _copy_rows(room, given, spans)
            elif given is not None:
                room.fill_(given)
        self._start(work, spans)

    @property
    def separate_input(self) -> bool:
        """Whether what the model is given is another tensor than x_adv."""
        return self.batch.mean is not None or self.network.input_dtype != self.batch.x.dtype

    def add_counters(self, work: Pass) -> None:
        """Room for what is counted of each sample, at its start."""
        if self.scored:
            work.zero_grad = torch.zeros_like(work.goal)
        if self.options.early_stop:
            work.moving = torch.ones_like(work.goal, dtype=torch.bool)
            work.taken = torch.zeros_like(work.goal)
            work.extra = torch.full_like(work.goal, self.options.extra_steps)

    def _start(self, work: Pass, spans: Sequence[Span]) -> None:
        """Put x_adv at its start, and write the model input where that is a tensor of its own."""
        b, o = self.batch, self.options
        if b.start is not None:
            _copy_rows(work.x_adv, b.start, spans)
        else:
            offset = 0
            for span in spans:
                part = slice(offset, offset + len(span))
                eps_n = None if work.eps_n is None else work.eps_n[part]
                self._init(
                    work.x_adv[part], work.x[part], eps_n, b.eps, self._sample_ids(span.rows), self.seed, span.restart,
                    o.init, o.norm, *o.bounds,
                )  # fmt: skip
                offset = part.stop
        if b.start is not None or self.separate_input:
            # A step of size 0 only projects, and writes the model input by the arithmetic of later steps.
            zero_grad, work.zero_grad = work.zero_grad, None
            self.step_by(work, work.x, None)
            work.zero_grad = zero_grad

    def _sample_ids(self, rows: slice | Tensor) -> Tensor | None:
        if self.batch.sample_ids is not None:
            return self.batch.sample_ids[rows]
        if isinstance(rows, Tensor):
            return rows
        return None if rows.start == 0 else torch.arange(rows.start, rows.stop, device=self.batch.x.device)

    def _nothing(self, x_adv: Tensor) -> Tensor | AttackResult:
        """The result for no images; how many classes the empty logits have, only the model knows."""
        if not self.options.return_info:
            return x_adv
        with torch.no_grad():
            logits = self.network(x_adv.to(self.network.input_dtype))
        none = self.batch.goal
        loss = x_adv.new_empty(0, dtype=torch.float64 if logits.dtype == torch.float64 else torch.float32)
        return AttackResult(x_adv, logits, none.clone(), none.bool(), loss, none.clone(), none.clone())


def _spans(begin: int, end: int, n: int) -> Iterator[Span]:
    """The spans that virtual samples [begin, end) fall into."""
    while begin < end:
        restart, first = divmod(begin, n)
        last = min(n, first + end - begin)
        yield Span(restart, slice(first, last))
        begin += last - first


class _Kept:
    """Per sample, the best restart so far: one that reached its goal, then the better loss, then the earlier.

    With early_stop the first restart that reached its goal stays: those after it need not have been run.
    """

    def __init__(self, x_adv: Tensor, options: AttackOptions) -> None:
        self._x_adv = x_adv
        self._in_place = options.restarts == 1
        self._targeted = options.targeted
        self._first_wins = options.early_stop
        self._kept: AttackResult | None = None

    def result(self) -> AttackResult:
        assert self._kept is not None
        return self._kept

    def offer(self, spans: Sequence[Span], outcome: AttackResult) -> None:
        names = [f.name for f in fields(outcome)]
        if self._kept is None:
            n = len(self._x_adv)
            columns = {name: empty_rows(getattr(outcome, name), n) for name in names}
            self._kept = AttackResult(**{**columns, "x_adv": self._x_adv})
        offset = 0
        for span in spans:
            restart, rows = span
            new = {name: getattr(outcome, name)[offset : offset + len(span)] for name in names}
            offset += len(span)
            if self._in_place:
                del new["x_adv"]
            better = None
            if restart > 0:
                old = {name: getattr(self._kept, name)[rows] for name in names}
                better = self._better(AttackResult(**new), AttackResult(**old))
            for name, value in new.items():
                column = getattr(self._kept, name)
                if better is not None:
                    mask = better.view(-1, *[1] * (value.ndim - 1))
                    value = torch.where(mask, value, old[name])
                column[rows] = value

    def _better(self, new: AttackResult, old: AttackResult) -> Tensor:
        closer = new.loss < old.loss if self._targeted else new.loss > old.loss
        closer |= old.loss.isnan() & ~new.loss.isnan()
        if self._first_wins:
            closer &= ~old.reached
        return (new.reached & ~old.reached) | ((new.reached == old.reached) & closer)


def empty_rows(like: Tensor, n: int, dtype: torch.dtype | None = None) -> Tensor:
    """Room for n samples laid out in memory as those of ``like``, which is dense by sample."""
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
def _rows(t: Tensor, spans: Sequence[Span]) -> Tensor: ...
@overload
def _rows(t: Tensor | None, spans: Sequence[Span]) -> Tensor | None: ...
def _rows(t: Tensor | None, spans: Sequence[Span]) -> Tensor | None:
    """The spans' rows of a per-sample tensor, one after another; a view where they are consecutive."""
    if t is None:
        return None
    if len(spans) == 1 and isinstance(spans[0].rows, slice):
        return t[spans[0].rows]
    out = empty_rows(t, sum(map(len, spans)))
    _copy_rows(out, t, spans)
    return out


def _copy_rows(out: Tensor, t: Tensor, spans: Sequence[Span]) -> None:
    for room, span in zip(out.split([len(span) for span in spans]), spans, strict=True):
        if isinstance(span.rows, slice):
            room.copy_(t[span.rows])
        else:
            torch.index_select(t, 0, span.rows, out=room)
