"""The compiled engine: steps as graphs of their own, traced once per shape, compiled by inductor, without autograd.

It serves modules whose forward is the same computation every time: what the forward decides in Python, beyond settings
that are attributes of its modules, is decided when it is traced.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fairtat.engines.base import Engine, Unsupported
from fairtat.engines.cache import building
from fairtat.engines.check import Probe
from fairtat.engines.model.structure import ModelStructure
from fairtat.engines.samples import Results, Span, count, take
from fairtat.engines.steps import S, Steps

if TYPE_CHECKING:
    from fairtat.engines.compiled.program import CompiledSteps

_LOG = logging.getLogger("fairtat")


class Compiled(Engine[S, "CompiledSteps"]):
    name = "compiled"
    addresses_count = False
    _inputs: list[Tensor]  # of the program, beside the model's own tensors

    def unsupported_options(self) -> str | None:
        return None

    def environment(self) -> Hashable:
        return torch.get_num_threads()  # inductor writes it into its kernels

    def build(self, size: int, spans: Sequence[Span]) -> CompiledSteps:
        return compile_steps(self.name, self.model, self.structure, self.steps, self.steps.begin(spans, expand=True))

    def start(self, program: CompiledSteps, size: int, spans: Sequence[Span], results: Results) -> S:
        n = count(spans)
        in_place = n == size and results.in_place
        x_adv = results.columns["x_adv"][spans[0].rows] if in_place else None
        samples = self.steps.begin(spans, x_adv, expand=True)
        padded = samples
        if n < size:  # the last sample is repeated
            index = torch.arange(size, device=samples.x_adv.device).clamp_(max=n - 1)
            padded = samples.with_tensors({name: take(t, index) for name, t in samples.tensors().items()})
            samples = padded.head(n, spans)
        self._inputs = [*padded.tensors().values(), *self.steps.constants().values()]
        return samples

    def first_run(self, program: CompiledSteps, samples: S) -> Probe:
        return next(self._runs(program, 1))

    def finish(self, program: CompiledSteps, samples: S, runs: int, results: Results) -> None:
        for _ in self._runs(program, runs):
            # A sample that has stopped stays, unmoved: a smaller batch would need a program of its own.
            if self.steps.shrinks and samples.moving is not None and not samples.moving.any():
                break
        scored = self.steps.scored
        results.write(samples, self.steps.report(samples, self.steps.judge(samples)) if scored else {})

    def _runs(self, program: CompiledSteps, runs: int) -> Iterator[Probe]:
        """Run a program so many times, and yield what it found each time."""
        if runs == 0:
            return
        prepared = program.prepare([*self.structure.parameters.values(), *self.structure.buffers.values()])
        for _ in range(runs):
            yield program.run(self._inputs, prepared)


def compile_steps(
    engine: str, model: nn.Module, structure: ModelStructure, steps: Steps[S], samples: S
) -> CompiledSteps:
    """The program of some steps of samples like these, for an engine of this name.

    Raises:
        Unsupported: the model cannot be traced, or the compiler cannot serve it.
    """
    # Tracing and inductor take seconds to import, which others need not wait for.
    from fairtat.engines.compiled.program import build

    _LOG.info("engine '%s': tracing and compiling %s for %d images", engine, type(model).__name__, len(samples.x_adv))
    try:
        with building():
            program = build(model, structure, steps, samples)
    except Exception as error:  # whatever a model or a compiler may raise
        _LOG.debug("engine '%s' cannot serve this model", engine, exc_info=True)
        reason = str(error).strip().partition("\n")[0]
        raise Unsupported(f"the model cannot be traced and compiled ({type(error).__name__}: {reason})") from error
    _LOG.info("engine '%s': built in %.1f s", engine, program.seconds)
    return program
