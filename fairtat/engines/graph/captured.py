"""Captured steps: the static tensors of an attack on batches of one shape, and the graphs that work on them.

What is captured is the eager engine's own step, so a replay is the eager attack. Radii, steps, labels and normalization
are copied into static tensors before each replay; weights are read through their addresses, as training left them.

The start stays outside the graphs, as one launch into the static images: its seed is an argument of the kernel, and a
graph would repeat the one it was captured with.

Beside the bare model's pass there are at most four batches of images: the static images, where they move, what the
model is given where that is another tensor, and the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fairtat.engines.base import Unsupported
from fairtat.engines.check import Probe, probe
from fairtat.engines.graph.cast_once import CastOnce
from fairtat.engines.graph.generations import Generation, SharedMemory
from fairtat.engines.model.random_numbers import draws_on_the_host, host_states, restore_host_states
from fairtat.engines.model.structure import ModelStructure
from fairtat.engines.samples import Samples, Score, Span, count
from fairtat.engines.steps import Steps

MAX_STEPS = 20  # in one graph: more launches of a shorter one cost nothing, more nodes cost memory and time to build
BUCKETS = 4  # sizes that a batch may shrink to: all, a half, a quarter, an eighth


Found = tuple[Score | None, Probe | None]  # what captured work returns


@dataclass(eq=False)
class Graph:
    """One captured function: what repeats it, and the static tensors that it returned."""

    replay: Callable[[], object]
    score: Score | None
    first: Probe | None  # what the first of its steps found


class CapturedSteps:
    """Room for ``size`` samples, and graphs for all of them or, where samples leave early, also for fewer."""

    def __init__(self, steps: Steps[Any], size: int) -> None:
        self.size = size
        self.classes = 0
        self.stream: Any = None  # that its tensors were allocated on
        self.generation: Generation | None = None  # that its graphs belong to
        self.samples: Samples = steps.room(size)
        self._constants = {name: torch.ones_like(t) for name, t in steps.constants().items()}
        self._steps: dict[int, Graph] = {}
        self._scores: dict[int, Graph] = {}
        if steps.shrinks:
            self.sizes = sorted({-(-size >> k) for k in range(BUCKETS)})
            self.steps_per_run = 1
        else:
            self.sizes = [size]
            divisors = (k for k in range(1, min(steps.number, MAX_STEPS) + 1) if steps.number % k == 0)
            self.steps_per_run = max(divisors)

    def tensors(self) -> list[Tensor]:
        """All static tensors except what the graphs return."""
        return [*self.samples.tensors().values(), *self._constants.values()]

    def fill(self, steps: Steps[Any], spans: Sequence[Span]) -> Any:
        """Copy a batch in, each sample at its start; what is left over of the room keeps what it held."""
        for name, given in steps.constants().items():
            self._constants[name].copy_(given)
        n = count(spans)
        live = self.samples.head(n, spans)
        steps.fill(live, spans)
        self.idle_beyond(n)
        return live

    def idle_beyond(self, n: int) -> None:
        """Rows from n on are not samples: they count as stopped."""
        if self.samples.moving is not None:
            self.samples.moving[n:].fill_(False)

    def bucket(self, n: int) -> int:
        """The smallest size of a graph that serves n samples."""
        return next(size for size in self.sizes if size >= n)

    def step(self, size: int) -> Score | None:
        """Make ``steps_per_run`` steps; the score is that of the last step's forward, where samples may leave."""
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

    def capture(
        self, steps: Steps[Any], spans: Sequence[Span], structure: ModelStructure, memory: SharedMemory
    ) -> None:
        """Capture the graphs on this batch. Buffers and generators are left as before, even after an exception.

        Raises:
            Unsupported: the model runs, but cannot be captured.
            torch.OutOfMemoryError: there is no room for it.
            Exception: the model does not run.
        """
        self.generation = memory.generation_for(self)
        static = steps.rebound(steps.network, self._constants.get("mean"), self._constants.get("std"))
        runtime = memory.runtime
        generators = runtime.generators()
        before = [(t, t.clone()) for t in structure.buffers.values()]
        states = [generator.get_state() for generator in generators]
        self.fill(steps, spans)
        try:
            with runtime.aside(self.generation.lane):
                casts_once = self._warm_up(static, structure, generators)
            for graphs, size, function in self._functions(static, structure if casts_once else None):
                replay, found = memory.capture(function, self.generation)
                graphs[size] = Graph(replay, *found)
        finally:
            with torch.no_grad():
                for tensor, value in before:
                    tensor.copy_(value)
            for generator, state in zip(generators, states, strict=True):
                if not torch.equal(generator.get_state(), state):  # else leave it to other threads
                    generator.set_state(state)
        self.classes = static.classes

    def _warm_up(self, steps: Steps[Any], structure: ModelStructure, generators: Sequence[torch.Generator]) -> bool:
        """Run all that will be captured, twice, so that whatever is made at the first call is there.

        Whether casts may be made once: some operations reject a dispatch mode.
        """
        casts_once = steps.network.autocasts and not structure.compiled
        on_the_host = host_states()
        try:
            self._run_all(steps, structure if casts_once else None)
        except Exception as error:
            if not casts_once or isinstance(error, torch.OutOfMemoryError):
                raise
            casts_once = False
            self._run_all(steps, None)
        states = [generator.get_state() for generator in generators]
        with structure.restored() as changed:
            drawn = draws_on_the_host(partial(self._run_all, steps, structure if casts_once else None))
        if drawn:
            restore_host_states(on_the_host)
            raise Unsupported(f"its forward draws random numbers from {' and '.join(drawn)}")
        if changed:
            raise Unsupported(f"its forward sets {', '.join(changed)}, which a graph would not do")
        if not all(torch.equal(g.get_state(), state) for g, state in zip(generators, states, strict=True)):
            raise Unsupported("its forward draws random numbers")
        return casts_once

    def _run_all(self, steps: Steps[Any], structure: ModelStructure | None) -> None:
        for _, _, function in self._functions(steps, structure):
            function()

    def _functions(
        self, steps: Steps[Any], casts_once: ModelStructure | None
    ) -> Iterator[tuple[dict[int, Graph], int, Callable[[], Found]]]:
        """What is captured: (where its graph goes, the size of its batch, the work)."""
        for size in self.sizes:
            yield self._steps, size, partial(_work, steps, self.samples.head(size), self.steps_per_run, casts_once)
            if steps.scored:
                yield self._scores, size, partial(judged, steps, self.samples.head(size), casts_once)


def judged(steps: Steps[Any], samples: Samples, casts_once: ModelStructure | None) -> Found:
    """A forward alone, and what it said."""
    with _casting(casts_once):
        return steps.judge(samples), None


def _work(steps: Steps[Any], samples: Samples, repeats: int, casts_once: ModelStructure | None) -> Found:
    """Some steps, and what their last forward said where samples may leave."""
    with _casting(casts_once):
        first = None
        for _ in range(repeats):
            score, grad = steps.advance(samples)
            first = first or probe(score.logits, grad)
            del grad  # so that it is gone before the next graph grows
        return score if steps.shrinks else None, first


def _casting(once: ModelStructure | None) -> AbstractContextManager[object]:
    return nullcontext() if once is None else CastOnce(once.parameters.values())
