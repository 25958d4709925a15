"""A plan: the static tensors of an attack on batches of one shape, and the graphs that work on them.

What is captured is the eager engine's own step, so a replay is the eager attack. Radii, steps, labels and normalisation
are copied into static tensors before each replay; weights are read through their addresses, as training left them.

The start stays outside the graphs, as one launch into the static images: its seed is an argument of the kernel, and a
graph would repeat the one it was captured with.

Beside the bare model's pass there are at most four batches of images: the static images, where they move, what the
model is given where that is another tensor, and the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor

from fairtat.attacks.anatomy import Anatomy
from fairtat.attacks.cast_once import CastOnce
from fairtat.attacks.engine_check import Probe, probe
from fairtat.attacks.engine_eager import Eager, Score
from fairtat.attacks.graph_runtime import GraphRuntime
from fairtat.attacks.passes import Attack, Pass, Span, empty_rows

MOST_STEPS = 20  # in one graph: more launches of a shorter one cost nothing, more nodes cost memory and time to build
WARM_UPS = 2  # calls before a capture, so that whatever is made at the first call is there
BUCKETS = 4  # sizes that a batch may shrink to: all, a half, a quarter, an eighth


Found = tuple[Score | None, Probe | None]  # what captured work returns


class Unfit(Exception):
    """Why a model cannot be captured."""


class Space:
    """What all graphs of a model on one device share: they never run at the same time."""

    def __init__(self, runtime: GraphRuntime) -> None:
        self.runtime = runtime
        self._pool: Any = None
        self._graphs: WeakSet[Graph] = WeakSet()
        self._stream: Any = None  # that used it last

    def enter(self, plan: Plan) -> None:
        """Make a plan ready for use on the current stream, which may be another than at its last use."""
        stream = self.runtime.stream()
        if self._stream is not None and self._stream != stream:
            self.runtime.wait_for(self._stream)
        self._stream = stream
        if plan.stream is None:
            plan.stream = stream
        elif plan.stream != stream:
            self.runtime.used_here(plan.tensors())

    def capture(self, function: Callable[[], Found]) -> Graph:
        """A graph of one call, for memory that the others use as well.

        Raises:
            Unfit: it cannot be captured.
        """
        if not self._graphs:  # a pool that has lost its last graph is given back, and cannot be used again
            self._pool = self.runtime.new_pool()
        try:
            replay, (score, first) = self.runtime.capture(function, self._pool)
        except Exception as error:  # whatever a model or a device may raise
            summary = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            raise Unfit(f"the model cannot be captured ({summary})") from error
        graph = Graph(replay, score, first)
        self._graphs.add(graph)
        return graph


@dataclass(eq=False)
class Graph:
    """One captured function: what repeats it, and the static tensors that it returned."""

    replay: Callable[[], object]
    score: Score | None
    first: Probe | None  # what the first of its steps found


class Plan:
    """Room for ``size`` samples, and graphs for all of them or, where samples leave early, also for fewer."""

    def __init__(self, attack: Attack, size: int) -> None:
        b = attack.batch
        x = b.x
        self.size = size
        self.classes = 0
        self.stream: Any = None  # that its tensors were allocated on
        self.work = Pass(
            x_adv=_room(x, size),
            x=_room(x, size),
            goal=_room(b.goal, size),
            y=None if b.y is None else _room(b.y, size),
            clean_logits=None if b.clean_logits is None else _room(b.clean_logits, size),
            eps_n=x.new_zeros(size),
            step_n=x.new_zeros(size),
            separate_input=_room(x, size, attack.network.input_dtype) if attack.separate_input else None,
            zero_grad=None,
        )
        attack.add_counters(self.work)
        self._mean = None if b.mean is None else torch.zeros_like(b.mean)
        self._std = None if b.std is None else torch.ones_like(b.std)
        self._steps: dict[int, Graph] = {}
        self._scores: dict[int, Graph] = {}
        if attack.shrinks:
            self.sizes = sorted({-(-size >> k) for k in range(BUCKETS)})
            self.together = 1
        else:
            self.sizes = [size]
            steps = attack.options.steps
            self.together = max(k for k in range(1, min(steps, MOST_STEPS) + 1) if steps % k == 0)

    def tensors(self) -> list[Tensor]:
        """All tensors of the plan but what its graphs return."""
        constants = [t for t in (self._mean, self._std) if t is not None]
        return [t for _, t in self.work.tensors()] + constants

    def fill(self, attack: Attack, spans: Sequence[Span]) -> Pass:
        """Copy a batch in, each sample at its start; what is left over of the room keeps what it held."""
        b = attack.batch
        for room, given in ((self._mean, b.mean), (self._std, b.std)):
            if room is not None and given is not None:
                room.copy_(given)
        live = self.work.head(sum(map(len, spans)))
        attack.fill(live, spans)
        self.idle_beyond(len(live.x))
        return live

    def idle_beyond(self, n: int) -> None:
        """Rows from n on are no samples: they do not move, and nobody waits for them."""
        if self.work.moving is not None:
            self.work.moving[n:].fill_(False)

    def bucket(self, n: int) -> int:
        """The smallest size of a graph that serves n samples."""
        return next(size for size in self.sizes if size >= n)

    def step(self, size: int) -> Score | None:
        """Make ``together`` steps; the score is that of the last step's forward, where samples may leave."""
        self._steps[size].replay()
        return self._steps[size].score

    def first(self, size: int) -> Probe:
        """What the first of the last ``step``'s steps found, before it moved."""
        found = self._steps[size].first
        assert found is not None
        return found

    def judge(self, size: int) -> Score:
        self._scores[size].replay()
        score = self._scores[size].score
        assert score is not None
        return score

    def capture(self, attack: Attack, spans: Sequence[Span], anatomy: Anatomy, space: Space) -> None:
        """Fill in the graphs, by way of this batch. Buffers and generators are as before, also after an exception.

        Raises:
            Unfit: the model runs, but cannot be captured.
            Exception: the model does not run.
        """
        static = replace(attack.batch, mean=self._mean, std=self._std)
        eager = Eager(Attack(attack.network, static, attack.options, attack.seed))
        runtime = space.runtime
        generators = runtime.generators()
        before = [(t, t.clone()) for t in anatomy.buffers.values()]
        states = [generator.get_state() for generator in generators]
        self.fill(attack, spans)
        try:
            with runtime.aside():
                casts_once = self._warm_up(eager, anatomy, generators)
            for graphs, size, function in self._functions(eager, anatomy if casts_once else None):
                graphs[size] = space.capture(function)
        finally:
            with torch.no_grad():
                for tensor, value in before:
                    tensor.copy_(value)
            for generator, state in zip(generators, states, strict=True):
                if not torch.equal(generator.get_state(), state):  # else leave it to other threads
                    generator.set_state(state)
        self.classes = eager.classes

    def _warm_up(self, eager: Eager, anatomy: Anatomy, generators: Sequence[torch.Generator]) -> bool:
        """Run all that will be captured; whether casts may be made once. Some operations object to a dispatch mode."""
        amp = torch.is_autocast_enabled(self.work.x.device.type) or eager.options.amp is not None
        casts_once = amp and not anatomy.compiled
        try:
            self._run_all(eager, anatomy if casts_once else None)
        except Exception:
            if not casts_once:
                raise
            casts_once = False
            self._run_all(eager, None)
        states = [generator.get_state() for generator in generators]
        with anatomy.untouched() as changed:
            for _ in range(WARM_UPS - 1):
                self._run_all(eager, anatomy if casts_once else None)
        if changed:
            raise Unfit(f"its forward sets {', '.join(changed)}, which a graph would not do")
        if not all(torch.equal(g.get_state(), state) for g, state in zip(generators, states, strict=True)):
            raise Unfit("its forward draws random numbers")
        return casts_once

    def _run_all(self, eager: Eager, anatomy: Anatomy | None) -> None:
        for _, _, function in self._functions(eager, anatomy):
            function()

    def _functions(
        self, eager: Eager, casts_once: Anatomy | None
    ) -> Iterator[tuple[dict[int, Graph], int, Callable[[], Found]]]:
        """What is captured: (where its graph goes, the size of its batch, the work)."""
        for size in self.sizes:
            yield self._steps, size, partial(_work, eager, self.work.head(size), self.together, casts_once)
            if eager.attack.scored:
                yield self._scores, size, partial(_work, eager, self.work.head(size), 0, casts_once)


def _work(eager: Eager, work: Pass, steps: int, casts_once: Anatomy | None) -> Found:
    """Some steps, and what their last forward said where samples may leave; no steps: a forward of its own."""
    with nullcontext() if casts_once is None else CastOnce(casts_once.parameters.values()):
        if steps == 0:
            return eager.judge(work), None
        first = None
        for _ in range(steps):
            score, grad = eager.advance(work)
            first = first or probe(score.logits, grad)
            del grad  # so that it is gone before the next graph grows
        return score if eager.attack.shrinks else None, first


def _room(like: Tensor, n: int, dtype: torch.dtype | None = None) -> Tensor:
    """Zeros: rows that no sample fills are computed too, and have to be valid."""
    return empty_rows(like, n, dtype).zero_()
