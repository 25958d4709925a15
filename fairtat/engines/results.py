"""The result of each sample: of the best restart so far, written as samples finish."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fairtat.engines.steps import S, Score, Span, Steps, empty_rows


class Results:
    """Columns with one row for each sample of the batch."""

    def __init__(self, x: Tensor, restarts: int) -> None:
        self.columns = {"x_adv": empty_rows(x, len(x))}
        self._in_place = restarts == 1

    def room(self, spans: Sequence[Span]) -> Tensor | None:
        """The rows of x_adv that a pass may work on itself, so that nothing is copied; None with restarts."""
        return self.columns["x_adv"][spans[0].rows] if self._in_place else None

    def write(self, steps: Steps[S], samples: S, score: Score | None, index: Tensor | None = None) -> None:
        """Write the samples that are done (None: all of them) as they are now; the score only if it is read."""
        new = steps.report(samples, score) if steps.scored and score is not None else {}
        if not samples.in_place:
            new["x_adv"] = samples.x_adv
        spans = samples.spans
        if index is not None:
            (span,) = spans  # samples leave only passes of one restart
            new, spans = {name: t[index] for name, t in new.items()}, [span.take(index)]
        for name in new.keys() - self.columns.keys():
            t = new[name]
            self.columns[name] = t.new_empty((len(self.columns["x_adv"]), *t.shape[1:]))
        offset = 0
        for span in spans:
            self._write(steps, span, {name: t[offset : offset + len(span)] for name, t in new.items()})
            offset += len(span)

    def _write(self, steps: Steps[S], span: Span, new: dict[str, Tensor]) -> None:
        better = None
        if span.restart > 0:
            old = {name: self.columns[name][span.rows] for name in new}
            better = steps.better(new, old)
        for name, value in new.items():
            if better is not None:
                value = torch.where(better.view(-1, *[1] * (value.ndim - 1)), value, old[name])
            self.columns[name][span.rows] = value
