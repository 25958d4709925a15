"""logit_stats_: per-class counts of a batch from its logits, beside logit_loss with class_stats_ and PyTorch's ops.

The floor is a copy of half the rows: logits are read once, and next to nothing is written.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from harness.case import Benchmark, Case, Contestant, Entrant, Settings, Verify
from harness.equality import close_to
from harness.op import BASELINE, floor, op_contestants

import fairtat
from fairtat import ops
from fairtat.reference import class_stats as layout
from ops.bench_logit_loss import Batch, inputs

Count = Callable[[fairtat.ClassStats, Batch], object]


def entrant(count: Count, batch: Batch) -> Entrant:
    """What is timed goes on counting into the same statistics; an answer is that of one count from zero."""

    def stats() -> fairtat.ClassStats:
        return fairtat.ClassStats(batch[0].shape[1], device=batch[0].device)

    def outcome() -> dict[str, torch.Tensor]:
        fresh = stats()
        count(fresh, batch)
        return {"confusion": fresh.confusion, "loss_sum": fresh.loss_sum}

    return Entrant(partial(count, stats(), batch), outcome)


def op(batch: Batch, backend: str) -> Entrant:
    return entrant(lambda stats, b: ops.logit_stats_(stats, *b, backend=backend), batch)


def in_parts(stats: fairtat.ClassStats, batch: Batch) -> None:
    logits, label = batch
    result = ops.logit_loss(logits, label)
    ops.class_stats_(stats, result.pred, label, loss=result.loss)


def eager(batch: Batch) -> Entrant:
    """The best form in PyTorch of the same sums: fixed point, in one word where the op has two."""
    logits, label = batch
    classes, ones = logits.shape[1], torch.ones_like(label)

    def counter() -> tuple[Callable[[], object], torch.Tensor, torch.Tensor]:
        confusion = torch.zeros(classes, classes, dtype=torch.int64, device=logits.device)
        sums = torch.zeros(classes, dtype=torch.int64, device=logits.device)

        def count() -> None:
            loss = F.cross_entropy(logits.float(), label, reduction="none").double()
            confusion.view(-1).index_add_(0, label * classes + logits.argmax(1), ones)
            sums.index_add_(0, label, (loss * layout.LOSS_SCALE).round().long())

        return count, confusion, sums

    def outcome() -> dict[str, torch.Tensor]:
        count, confusion, sums = counter()
        count()
        return {"confusion": confusion, "loss_sum": sums.double() / layout.LOSS_SCALE}

    return Entrant(counter()[0], outcome)


def as_float64(batch: Batch) -> Verify:
    outcome = entrant(lambda stats, b: ops.logit_stats_(stats, b[0].double(), b[1], backend="reference"), batch).outcome
    assert outcome is not None
    return close_to(outcome(), {"loss_sum": 1e-2 if batch[0].dtype == torch.bfloat16 else 1e-5})


def case(n: int, classes: int, dtype: torch.dtype = torch.float32, **about: Any) -> Case[Batch]:
    label = f"N={n}, C={classes}" + (", bfloat16" if dtype == torch.bfloat16 else "")
    make: Callable[[Settings, int], Batch] = partial(inputs, n=n, classes=classes, dtype=dtype)
    return Case(label, make, **about)


BENCHMARK = Benchmark(
    name="logit_stats",
    question="What does it cost to count a batch by class from its logits?",
    contestants=(
        *op_contestants(op),
        Contestant("logit_loss, then class_stats_", "eager", partial(entrant, in_parts), graph=True),
        Contestant("cross_entropy, argmax, index_add", "eager", eager, graph=True),
        floor(lambda batch: torch.empty_like(batch[0][: (len(batch[0]) + 1) // 2])),
    ),
    baseline=BASELINE,
    verify=as_float64,
    rule="every count equal to a float64 computation, loss sums within 1e-5",
    bytes_moved=lambda batch: batch[0].numel() * batch[0].itemsize,
    cases=(
        case(128, 10, headline=True, quick=True),
        case(4096, 1000, headline=True),
        case(4096, 1000, torch.bfloat16),
        case(128, 10, headline=True, quick=True, device="cuda"),
        case(4096, 1000, headline=True, device="cuda"),
    ),
)


def test_logit_stats(case: Case[Batch], compare: Callable[[Case[Batch]], None]) -> None:
    compare(case)
