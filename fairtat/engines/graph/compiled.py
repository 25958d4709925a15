"""The compiled graph engine: the compiled engine's program, captured once as CUDA graphs and replayed.

A captured eager step keeps autograd's kernels, and a compiled program without a graph needs the host for each launch.
This is an engine of its own, not an option of the graph engine: it refuses what either of the two refuses, equals
"eager" within rounding as "compiled" does, and cannot run smaller batches without further programs.

What the steps need of the weights (casts, folded normalizations) is a graph of its own, replayed once per batch:
weights may have changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from fairtat.engines.check import Probe
from fairtat.engines.compiled.engine import compile_steps
from fairtat.engines.graph.captured import MAX_STEPS, CapturedSteps, Found, Graph, judged
from fairtat.engines.graph.engine import STEPS_BETWEEN_LOOKS
from fairtat.engines.graph.engine import Graph as GraphEngine
from fairtat.engines.model.structure import ModelStructure
from fairtat.engines.samples import Results, Span
from fairtat.engines.steps import S, Steps

if TYPE_CHECKING:
    from fairtat.engines.compiled.program import CompiledSteps


class CapturedProgram(CapturedSteps):
    """Room for ``size`` samples, and graphs of a program for so many."""

    def __init__(self, steps: Steps[Any], size: int, program: CompiledSteps, structure: ModelStructure) -> None:
        super().__init__(steps, size)
        self.sizes = [size]  # a smaller batch would need a program of its own
        runs = steps.number // program.steps_per_run
        most = 1 if steps.shrinks else MAX_STEPS // program.steps_per_run
        self._runs = max((k for k in range(1, most + 1) if runs % k == 0), default=1)
        self.steps_per_run = self._runs * program.steps_per_run
        self._program = program
        self._of_model = [*structure.parameters.values(), *structure.buffers.values()]
        self._prepare: dict[int, Graph] = {}
        self._prepared: list[Tensor] = []  # static, once captured

    def prepare(self) -> None:
        """Compute what the steps need of the weights as they are now."""
        self._prepare[self.size].replay()

    def _functions(
        self, steps: Steps[Any], casts_once: ModelStructure | None
    ) -> Iterator[tuple[dict[int, Graph], int, Callable[[], Found]]]:
        yield self._prepare, self.size, self._preparation
        yield self._steps, self.size, partial(self._several_runs, steps)
        if steps.scored:
            yield self._scores, self.size, partial(judged, steps, self.samples, casts_once)

    def _preparation(self) -> Found:
        self._prepared = self._program.prepare(self._of_model)
        return None, None

    def _several_runs(self, steps: Steps[Any]) -> Found:
        first: Probe | None = None
        for _ in range(self._runs):
            found = self._program.run(self.tensors(), self._prepared)
            first = first or found
        steps.classes = self._program.classes
        return None, first


class CompiledGraph(GraphEngine[S]):
    name = "compiled_graph"
    _program: CompiledSteps  # of the size that is being built

    def build(self, size: int, spans: Sequence[Span]) -> CapturedSteps:
        self._program = compile_steps(self.name, self.model, self.structure, self.steps, self.steps.room(size))
        return super().build(size, spans)

    def room(self, size: int) -> CapturedSteps:
        return CapturedProgram(self.steps, size, self._program, self.structure)

    def start(self, program: CapturedSteps, size: int, spans: Sequence[Span], results: Results) -> S:
        samples = super().start(program, size, spans, results)
        assert isinstance(program, CapturedProgram)
        program.prepare()
        return samples

    def finish(self, program: CapturedSteps, samples: S, runs: int, results: Results) -> None:
        for k in range(runs):
            program.step(program.size)
            if self.steps.shrinks and k % STEPS_BETWEEN_LOOKS == 0:
                left = samples.still_moving()
                if left is not None and len(left) == 0:
                    break
        results.write(samples, self.report(program, program.size, samples))
