"""The eager engine: plain PyTorch passes of the model, and one fused kernel on either side of them.

K steps cost K forwards and K backwards to the input. The gradient starts from the logits, so there is no
autograd graph of the loss, and with frozen parameters none of a weight.
"""

from __future__ import annotations

from collections.abc import Sequence

from fairtat.engines.results import Results
from fairtat.engines.steps import S, Span, Steps, take


def run(steps: Steps[S], spans: Sequence[Span], results: Results) -> None:
    """Attack the samples of these spans: the loop that the other engines have to reproduce."""
    samples = steps.begin(spans, results.room(spans))
    for _ in range(steps.steps):
        leaf, score = steps.look(samples)
        left = samples.still_moving() if steps.shrinks else None
        if left is not None:
            results.write(steps, samples, score, samples.stopped())
            if len(left) == 0:
                return
        grad = steps.gradient(leaf, score)
        del leaf, score  # so that the graph is gone before the next one grows
        if left is not None:
            grad = take(grad, left)
            samples.keep(left)
        steps.step(samples, grad, None if steps.shrinks else samples.moving)
    results.write(steps, samples, steps.judge(samples) if steps.scored else None)
