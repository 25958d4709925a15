"""The driver: cuts an attack into passes through the model, and hands each to an engine.

With R restarts of N samples, virtual sample v = r*N + i is restart r of sample i. A pass takes at most
``chunk_size`` consecutive virtual samples. Where samples leave early, restarts take turns instead, each over the
samples that none before it brought to their goal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor

from fairtat.engines import eager
from fairtat.engines.base import Engine
from fairtat.engines.model.network import InputWritten
from fairtat.engines.results import Results
from fairtat.engines.steps import S, Span, Steps


def run(
    steps: Steps[S], engine: Engine[S, Any] | None, *, restarts: int = 1, chunk_size: int | None = None
) -> dict[str, Tensor]:
    """Attack a batch, and return the columns of the result; no engine: the eager one."""
    results = Results(steps.x, restarts)
    in_turn = steps.shrinks and restarts > 1
    passes = _in_turn if in_turn else _folded
    for spans in passes(results, len(steps.x), restarts, chunk_size):
        try:
            _serve(steps, engine, spans, results)
        except InputWritten:  # so the pass starts again, and the model is given copies
            _serve(steps, engine, spans, results)
    # Only now: had the eager engine failed as well, its error would have been the message.
    if engine is not None:
        engine.warn()
    return results.columns


def _serve(steps: Steps[S], engine: Engine[S, Any] | None, spans: Sequence[Span], results: Results) -> None:
    if engine is None or not engine.serve(spans, results):
        eager.run(steps, spans, results)


def _folded(results: Results, n: int, restarts: int, chunk_size: int | None) -> Iterator[Sequence[Span]]:
    """All restarts as one long batch, in passes of at most ``chunk_size``."""
    total = n * restarts
    size = min(chunk_size or total, total)
    for begin in range(0, total, size):
        yield list(_spans(begin, min(begin + size, total), n))


def _in_turn(results: Results, n: int, restarts: int, chunk_size: int | None) -> Iterator[Sequence[Span]]:
    """One restart after another, each for the samples that are not at their goal yet."""
    size = min(chunk_size or n, n)
    yield from ([Span(0, slice(begin, min(begin + size, n)))] for begin in range(0, n, size))
    for restart in range(1, restarts):
        # The host has to know how many there are.
        rows = (~results.columns["reached"]).nonzero()[:, 0]
        yield from ([Span(restart, part)] for part in rows.split(size) if len(part))


def _spans(begin: int, end: int, n: int) -> Iterator[Span]:
    """The spans that virtual samples [begin, end) fall into."""
    while begin < end:
        restart, first = divmod(begin, n)
        last = min(n, first + end - begin)
        yield Span(restart, slice(first, last))
        begin += last - first
