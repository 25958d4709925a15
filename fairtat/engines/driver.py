"""The driver: chooses the engine, cuts an attack into passes through the model, and hands each of them over.

With R restarts of N samples, virtual sample v = r*N + i is restart r of sample i. A pass takes at most
``chunk_size`` consecutive virtual samples. Where samples leave early, restarts take turns instead, each over the
samples that none before it brought to their goal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fairtat.engines import patient
from fairtat.engines.base import Engine
from fairtat.engines.compiled.engine import Compiled
from fairtat.engines.graph import runtime
from fairtat.engines.graph.compiled import CompiledGraph
from fairtat.engines.graph.engine import Graph
from fairtat.engines.model.network import InputWritten
from fairtat.engines.patient import Patient
from fairtat.engines.samples import Results, Span
from fairtat.engines.steps import S, Steps, run_eagerly

ENGINES = ("auto", "eager", "compiled", "graph", "compiled_graph")
ENGINE_CHECKS = ("first", "always", "off")


def run(
    steps: Steps[S],
    engine: str = "eager",
    *,
    check: str = "first",
    restarts: int = 1,
    chunk_size: int | None = None,
    requested: bool = True,
) -> dict[str, Tensor]:
    """Attack a batch, and return the columns of the result.

    ``requested``: the engine was asked for by name; else nobody is told that it cannot serve.
    """
    chosen = _engine(engine, steps, check, chunked=chunk_size is not None)
    results = Results({"x_adv": torch.empty_like(steps.x)}, restarts == 1, steps.better)
    passes = _in_turn if steps.shrinks and restarts > 1 else _folded
    for spans in passes(results, len(steps.x), restarts, chunk_size):
        try:
            _serve(steps, chosen, spans, results)
        except InputWritten:  # so the pass starts again, and the model is given copies
            _serve(steps, chosen, spans, results)
    # Only now: had the eager engine failed as well, its error would have been the message.
    if chosen is not None and requested:
        chosen.warn()
    return results.columns


def _engine(name: str, steps: Steps[S], check: str, *, chunked: bool) -> Engine[S, Any] | None:
    """The engine of this name; None is the eager one.

    "auto": graphs where they are a gain for sure, on a GPU, without early stopping and chunks; on a CPU, what `patient`
    says.
    """
    if name == "compiled":
        return Compiled(steps, check)
    if name == "graph":
        return Graph(steps, check)
    if name == "compiled_graph":
        return CompiledGraph(steps, check)
    if name != "auto":
        return None
    if runtime.runtime_for(steps.x.device) is None:
        return Patient(steps, check) if Patient.suits(steps) else None
    if steps.stops_early or chunked or not isinstance(steps.network.model, nn.Module):
        return None
    return Graph(steps, check, requested=False)


def _serve(steps: Steps[S], engine: Engine[S, Any] | None, spans: Sequence[Span], results: Results) -> None:
    if engine is None:
        run_eagerly(steps, spans, results)
    elif not engine.serve(spans, results):
        begin = patient.clock()
        run_eagerly(steps, spans, results)
        engine.ran_eagerly(spans, patient.clock() - begin)


def _folded(results: Results, n: int, restarts: int, chunk_size: int | None) -> Iterator[Sequence[Span]]:
    """All restarts as one long batch, in passes of at most ``chunk_size``."""
    total = n * restarts
    size = min(chunk_size or total, total)
    for begin, end in _cut(total, size):
        yield list(_spans(begin, end, n))


def _in_turn(results: Results, n: int, restarts: int, chunk_size: int | None) -> Iterator[Sequence[Span]]:
    """One restart after another, each for the samples that are not at their goal yet."""
    size = min(chunk_size or n, n)
    yield from ([Span(0, slice(begin, end), end - begin)] for begin, end in _cut(n, size))
    for restart in range(1, restarts):
        # The host has to know how many there are.
        rows = (~results.columns["reached"]).nonzero()[:, 0]
        yield from ([Span(restart, part, len(part))] for part in rows.split(size) if len(part))


def _cut(n: int, size: int) -> Iterator[tuple[int, int]]:
    for begin in range(0, n, size):
        yield begin, min(begin + size, n)


def _spans(begin: int, end: int, n: int) -> Iterator[Span]:
    """The spans that virtual samples [begin, end) fall into."""
    while begin < end:
        restart, first = divmod(begin, n)
        last = min(n, first + end - begin)
        yield Span(restart, slice(first, last), last - first)
        begin += last - first
