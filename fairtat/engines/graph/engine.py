"""The graph engine: an attack's steps captured once as CUDA graphs and replayed, which leaves the host nothing to do.

It serves modules whose forward does the same work on the device every time.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fairtat.engines.base import Engine, OutOfMemory, Unsupported
from fairtat.engines.cache import Family, building
from fairtat.engines.check import Probe
from fairtat.engines.graph import runtime
from fairtat.engines.graph.captured import CapturedSteps
from fairtat.engines.graph.generations import SharedMemory
from fairtat.engines.model.structure import ModelStructure
from fairtat.engines.samples import Results, Span, take
from fairtat.engines.steps import S, Steps

_LOG = logging.getLogger("fairtat")

STEPS_BETWEEN_LOOKS = 2  # after which the host asks which samples have stopped, and waits for the answer


class Graph(Engine[S, CapturedSteps]):
    name = "graph"
    addresses_count = True

    def __init__(self, steps: Steps[S], check: str, *, requested: bool = True) -> None:
        super().__init__(steps, check, requested=requested)
        self._runtime = runtime.runtime_for(steps.x.device)

    def unsupported_options(self) -> str | None:
        return f"CUDA graphs need a GPU, and x is on {self.steps.x.device}" if self._runtime is None else None

    @staticmethod
    def unsupported_layers(structure: ModelStructure) -> str | None:
        if any(isinstance(module, nn.SyncBatchNorm) and module.training for module in structure.modules.values()):
            return "SyncBatchNorm in train mode waits for other processes, which need not capture at the same call"
        return None

    def environment(self) -> Hashable:
        return (
            # The wrapper of torch.compile is captured with the kernels that it made.
            self.network.model is self.model,
            self.steps.kernels,
            # What PyTorch and its libraries choose kernels by.
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.cudnn.enabled,
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
            torch.backends.cuda.matmul.fp32_precision,
            torch.backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
        )

    def size_for(self, n: int, family: Family[CapturedSteps]) -> int | None:
        if self.steps.shrinks:
            return min((size for size in family.programs if size >= n), default=n)
        return super().size_for(n, family)

    def build(self, size: int, spans: Sequence[Span]) -> CapturedSteps:
        name = type(self.model).__name__
        try:
            captured = self._capture(size, spans)
            if captured is None:
                self._memory().runtime.free_memory()
                captured = self._capture(size, spans)
            if captured is None:
                raise OutOfMemory(f"there was no memory to capture {size} images")
        except Unsupported as reason:
            _LOG.info("engine '%s' cannot serve %s: %s", self.name, name, reason)
            raise
        _LOG.info("engine '%s': captured %s for %d images", self.name, name, size)
        return captured

    def _capture(self, size: int, spans: Sequence[Span]) -> CapturedSteps | None:
        """None: there is no memory. By then the error is gone, and with it the tensors that its frames hold."""
        memory = self._memory()
        try:
            captured = self.room(size)
            memory.enter(captured)
            with building():
                captured.capture(self.steps, spans, self.structure, memory)
        except torch.OutOfMemoryError:
            _LOG.debug("engine '%s' is out of memory", self.name, exc_info=True)
            return None
        return captured

    def room(self, size: int) -> CapturedSteps:
        """Static tensors for so many samples, and no graph yet."""
        return CapturedSteps(self.steps, size)

    def _memory(self) -> SharedMemory:
        assert self._runtime is not None
        if self.record.shared is None or self.record.shared.runtime is not self._runtime:
            self.record.shared = SharedMemory(self._runtime)
        shared: SharedMemory = self.record.shared
        return shared

    def start(self, program: CapturedSteps, size: int, spans: Sequence[Span], results: Results) -> S:
        self._memory().enter(program)
        live: S = program.fill(self.steps, spans)
        return live

    def first_run(self, program: CapturedSteps, samples: S) -> Probe:
        size = program.bucket(len(samples.x_adv))
        program.step(size)
        return program.first(size)

    def finish(self, program: CapturedSteps, samples: S, runs: int, results: Results) -> None:
        if self.steps.shrinks:
            self._shrink(program, samples, results)
            return
        for _ in range(runs):
            program.step(program.size)
        # What stays in the static tensors is read before they are used again.
        results.write(samples, self.report(program, program.size, samples))

    def _shrink(self, program: CapturedSteps, live: S, results: Results) -> None:
        """Run the steps on ever smaller graphs, as samples stop. A stopped one stays, unmoved, until the next look."""
        size = program.bucket(len(live.x_adv))
        for k in range(1, self.steps.number):
            score = program.step(size)
            if k > 1 and k % STEPS_BETWEEN_LOOKS:
                continue
            assert score is not None
            left = live.still_moving()
            if left is None or (len(left) > 0 and program.bucket(len(left)) == size):
                continue
            # The samples that have stopped did so before the last step's forward, so it has seen them where they are.
            results.write(live, self.steps.report(live, score.head(len(live.x_adv))), live.stopped())
            if len(left) == 0:
                return
            live = _closed_up(program, live, left)
            size = program.bucket(len(left))
        program.step(size)
        results.write(live, self.report(program, size, live))

    def report(self, program: CapturedSteps, size: int, live: S) -> dict[str, Tensor]:
        """The columns of the result beside x_adv, for samples where they are."""
        if not self.steps.scored:
            return {}
        return self.steps.report(live, program.judge(size).head(len(live.x_adv)))


def _closed_up(program: CapturedSteps, live: S, left: Tensor) -> S:
    """Move the samples that are left to the front of the static tensors."""
    (span,) = live.spans
    smaller: Any = program.samples.head(len(left), [span.take(left)])
    for room, tensor in zip(smaller.tensors().values(), live.tensors().values(), strict=True):
        room.copy_(take(tensor, left))
    program.idle_beyond(len(left))
    return smaller  # type: ignore[no-any-return]
