"""The passes that an attack makes through the model, whichever engine steps them.

With R restarts of N samples, virtual sample v = r*N + i is restart r of sample i. A pass takes at most
``chunk_size`` consecutive virtual samples; what comes out is merged into one result a sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, overload

import torch
from torch import Tensor

from fairtat import backends
from fairtat.attacks.batch import Batch
from fairtat.attacks.network import Network
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

    @property
    def model_input(self) -> Tensor:
        return self.x_adv if self.separate_input is None else self.separate_input

    def keep(self, index: Tensor) -> None:
        """Let all samples but these leave."""
        if self.row is None:
            self.row = torch.arange(len(self.goal), device=index.device)
        for f in fields(self):
            value = getattr(self, f.name)
            if value is not None:
                setattr(self, f.name, take(value, index))


Descend = Callable[[Pass], "AttackResult | None"]


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
        self._step = backends.kernel("pgd_step", backends.choose("pgd_step", x.device, widest, backend))
        self._init = backends.kernel("pgd_init", backends.choose("pgd_init", x.device, x.dtype, backend))
        self.scored = options.return_info or options.restarts > 1

    def run(self, descend: Descend) -> Tensor | AttackResult:
        """Attack every pass. ``descend`` moves ``x_adv`` in place and reports if the attack is ``scored``."""
        n, restarts = self.batch.x.shape[0], self.options.restarts
        x_adv = empty_rows(self.batch.x, n)
        if n == 0:
            return self._nothing(x_adv)
        size = min(self.options.chunk_size or n * restarts, n * restarts)
        kept = _Kept(x_adv, self.options)
        for begin in range(0, n * restarts, size):
            spans = list(_spans(begin, min(begin + size, n * restarts), n))
            # Without restarts a pass works on its rows of the result itself, so that nothing is copied.
            outcome = descend(self._start(spans, x_adv[spans[0].rows] if restarts == 1 else None))
            if outcome is not None:
                kept.offer(spans, outcome)
        return kept.result() if self.options.return_info else x_adv

    def step(self, work: Pass, grad: Tensor, step_n: Tensor | None, step: float) -> None:
        """Move ``work`` along ``grad`` (laid out like x_adv) and write the next model input."""
        b, o = self.batch, self.options
        self._step(
            work.x_adv, grad, work.x, work.eps_n, b.eps, step_n, step, o.targeted, o.norm, *o.bounds,
            work.separate_input, b.mean, b.std, work.zero_grad,
        )  # fmt: skip

    def _start(self, spans: Sequence[_Span], room: Tensor | None) -> Pass:
        """The samples of these spans, each at its start."""
        b, o = self.batch, self.options
        x = _rows(b.x, spans)
        n = x.shape[0]
        x_adv = empty_rows(x, n) if room is None else room
        separate = b.mean is not None or self.network.input_dtype != x.dtype
        work = Pass(
            x_adv=x_adv,
            x=x,
            goal=_rows(b.goal, spans),
            y=_rows(b.y, spans),
            clean_logits=_rows(b.clean_logits, spans),
            eps_n=_rows(b.eps_n, spans),
            step_n=_rows(b.step_n, spans),
            separate_input=empty_rows(x, n, self.network.input_dtype) if separate else None,
            zero_grad=None,
        )
        if b.start is not None:
            x_adv.copy_(_rows(b.start, spans))
        else:
            offset = 0
            for restart, rows in spans:
                part = slice(offset, offset + rows.stop - rows.start)
                eps_n = None if work.eps_n is None else work.eps_n[part]
                self._init(
                    x_adv[part], x[part], eps_n, b.eps, self._sample_ids(rows), self.seed, restart,
                    o.init, o.norm, *o.bounds,
                )  # fmt: skip
                offset = part.stop
        if b.start is not None or separate:
            # A step of size 0 only projects, and writes the model input by the arithmetic of later steps.
            self.step(work, x, None, 0.0)
        if self.scored:
            work.zero_grad = torch.zeros_like(work.goal)
        return work

    def _sample_ids(self, rows: slice) -> Tensor | None:
        if self.batch.sample_ids is not None:
            return self.batch.sample_ids[rows]
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


class _Span(NamedTuple):
    """A restart of some samples: rows of the batch, drawn from the restart's own stream."""

    restart: int
    rows: slice


def _spans(begin: int, end: int, n: int) -> Iterator[_Span]:
    """The spans that virtual samples [begin, end) fall into."""
    while begin < end:
        restart, first = divmod(begin, n)
        last = min(n, first + end - begin)
        yield _Span(restart, slice(first, last))
        begin += last - first


class _Kept:
    """Per sample, the best restart so far: one that reached its goal, then the better loss, then the earlier."""

    def __init__(self, x_adv: Tensor, options: AttackOptions) -> None:
        self._x_adv = x_adv
        self._in_place = options.restarts == 1
        self._targeted = options.targeted
        self._kept: AttackResult | None = None

    def result(self) -> AttackResult:
        assert self._kept is not None
        return self._kept

    def offer(self, spans: Sequence[_Span], outcome: AttackResult) -> None:
        if self._kept is None:
            n = len(self._x_adv)
            columns = {f.name: empty_rows(getattr(outcome, f.name), n) for f in fields(outcome)}
            self._kept = AttackResult(**{**columns, "x_adv": self._x_adv})
        offset = 0
        for restart, rows in spans:
            end = offset + rows.stop - rows.start
            new = {f.name: getattr(outcome, f.name)[offset:end] for f in fields(outcome)}
            old = {f.name: getattr(self._kept, f.name)[rows] for f in fields(outcome)}
            if self._in_place:
                del new["x_adv"]
            better = None if restart == 0 else self._better(AttackResult(**new), AttackResult(**old))
            for name, value in new.items():
                if better is None:
                    old[name].copy_(value)
                else:
                    mask = better.view(-1, *[1] * (value.ndim - 1))
                    old[name].copy_(torch.where(mask, value, old[name]))
            offset = end

    def _better(self, new: AttackResult, old: AttackResult) -> Tensor:
        closer = new.loss < old.loss if self._targeted else new.loss > old.loss
        closer |= old.loss.isnan() & ~new.loss.isnan()
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
def _rows(t: Tensor, spans: Sequence[_Span]) -> Tensor: ...
@overload
def _rows(t: Tensor | None, spans: Sequence[_Span]) -> Tensor | None: ...
def _rows(t: Tensor | None, spans: Sequence[_Span]) -> Tensor | None:
    """The spans' rows of a per-sample tensor, one after another; a view where there is one span."""
    if t is None:
        return None
    if len(spans) == 1:
        return t[spans[0].rows]
    pieces = [t[span.rows] for span in spans]
    out = empty_rows(t, sum(map(len, pieces)))
    for destination, piece in zip(out.split([len(p) for p in pieces]), pieces, strict=True):
        destination.copy_(piece)
    return out
