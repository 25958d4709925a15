"""class_stats_: per-class counts of a batch, beside the published loops, bincount and index_add.

Predictions are given, so argmax costs nothing here. torchmetrics and scikit-learn count no losses: less work.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from harness.case import Benchmark, Case, Contestant, Entrant, Settings, Unavailable, Verify
from harness.equality import equal_to
from harness.op import BASELINE, op_contestants
from torch import Tensor

import fairtat
from fairtat import ops
from fairtat.reference import class_stats as layout


class Batch:
    """Predictions that are right about half of the time, labels, and losses that a float64 sums exactly."""

    def __init__(self, settings: Settings, n: int, classes: int) -> None:
        if settings.rehearsal:
            n, classes = 64, 10
        generator = torch.Generator().manual_seed(0)
        self.classes, self.device = classes, settings.place
        label = torch.randint(classes, (n,), generator=generator)
        guess = torch.randint(classes, (n,), generator=generator)
        self.label = label.to(self.device)
        self.pred = torch.where(torch.rand(n, generator=generator) < 0.5, label, guess).to(self.device)
        self.loss = (torch.randint(1 << 12, (n,), generator=generator).float() / 256.0).to(self.device)

    def zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape or (self.classes,), dtype=torch.int64, device=self.device)


# Count the batch once more; read the counts.
Counter = tuple[Callable[[], object], Callable[[], dict[str, Tensor]]]


def entrant(make: Callable[[Batch], Counter], batch: Batch) -> Entrant:
    """What is timed goes on counting into the same statistics; an answer is that of one count from zero."""

    def outcome() -> dict[str, Tensor]:
        count, read = make(batch)
        count()
        return read()

    return Entrant(make(batch)[0], outcome)


def op(batch: Batch, backend: str) -> Entrant:
    def counter(batch: Batch) -> Counter:
        stats = fairtat.ClassStats(batch.classes, device=batch.device)
        return (
            lambda: ops.class_stats_(stats, batch.pred, batch.label, loss=batch.loss, backend=backend),
            lambda: {"confusion": stats.confusion, "loss_sum": stats.loss_sum, "nonfinite": stats.nonfinite},
        )

    return entrant(counter, batch)


def loop(batch: Batch) -> Counter:
    """The published loops over samples in their fastest form, Python numbers and lists; all others must equal it."""
    confusion = [[0] * batch.classes for _ in range(batch.classes)]
    loss_sum = [0.0] * batch.classes

    def count() -> None:
        for p, y, value in zip(batch.pred.tolist(), batch.label.tolist(), batch.loss.tolist(), strict=True):
            confusion[y][p] += 1
            loss_sum[y] += value

    return count, lambda: {
        "confusion": torch.tensor(confusion, device=batch.device),
        "loss_sum": torch.tensor(loss_sum, dtype=torch.float64, device=batch.device),
        "nonfinite": batch.zeros(),
    }


def as_the_loop(batch: Batch) -> Verify:
    outcome = entrant(loop, batch).outcome
    assert outcome is not None
    return equal_to(outcome())


def vectorized(batch: Batch, *, bincount: bool = False, float_sums: bool = False) -> Counter:
    """The counts in PyTorch.

    Loss sums are as the op has them, integers that no order changes and losses that are not finite apart; but in one
    word, where the op has two: less work, and sums that wrap from 2**31 on. ``float_sums`` is less work again: sums
    that depend on the order, and that one NaN spoils. ``bincount`` makes a C*C result per call.
    """
    classes = batch.classes
    confusion, fixed, nonfinite = batch.zeros(classes, classes), batch.zeros(), batch.zeros()
    loss_sum = batch.zeros().double()
    ones = torch.ones_like(batch.label)

    def count() -> None:
        cells = batch.label * classes + batch.pred
        if bincount:
            confusion.add_(torch.bincount(cells, minlength=classes * classes).view(classes, classes))
        else:
            confusion.view(-1).index_add_(0, cells, ones)
        value = batch.loss.double()
        if float_sums:
            loss_sum.index_add_(0, batch.label, value)
            return
        fits = value.abs() <= layout.LOSS_MAX
        fixed.index_add_(0, batch.label, torch.where(fits, value * layout.LOSS_SCALE, 0.0).round().long())
        nonfinite.index_add_(0, batch.label, (~fits).long())

    def read() -> dict[str, Tensor]:
        sums = loss_sum if float_sums else fixed.double() / layout.LOSS_SCALE
        return {"confusion": confusion, "loss_sum": sums, "nonfinite": nonfinite}

    return count, read


def torchmetrics(batch: Batch) -> Counter:
    try:
        library = importlib.import_module("torchmetrics.classification")
    except RuntimeError as error:  # a torchvision that was built for another PyTorch
        raise Unavailable(f"torchmetrics does not load here: {error}") from error
    metric = library.MulticlassConfusionMatrix(batch.classes).to(batch.device)
    return lambda: metric.update(batch.pred, batch.label), lambda: {"confusion": metric.confmat}


def sklearn(batch: Batch) -> Counter:
    count = importlib.import_module("sklearn.metrics").confusion_matrix
    confusion, classes = batch.zeros(batch.classes, batch.classes), range(batch.classes)

    def add() -> None:
        confusion.add_(torch.from_numpy(count(batch.label.numpy(), batch.pred.numpy(), labels=classes)))

    return add, lambda: {"confusion": confusion}


def case(n: int, classes: int, **about: Any) -> Case[Batch]:
    return Case(f"N={n}, C={classes}", lambda settings, seed: Batch(settings, n, classes), headline=True, **about)


BENCHMARK = Benchmark(
    name="class_stats",
    question="What does it cost to count a batch by class?",
    contestants=(
        *op_contestants(op),
        Contestant("Python loop", "published", partial(entrant, loop)),
        # On a GPU outside a graph: bincount reads from the GPU.
        Contestant("bincount + index_add", "eager", partial(entrant, partial(vectorized, bincount=True))),
        Contestant("index_add in place", "eager", partial(entrant, vectorized), graph=True),
        Contestant(
            "index_add, float64 sums", "eager", partial(entrant, partial(vectorized, float_sums=True)), graph=True
        ),
        Contestant("torchmetrics", "peer", partial(entrant, torchmetrics)),
        Contestant("scikit-learn", "peer", partial(entrant, sklearn), on=("cpu",)),
    ),
    baseline=BASELINE,
    verify=as_the_loop,
    rule="every count and loss sum equal to a brute-force loop",
    cases=(
        case(128, 10, quick=True),
        case(4096, 10),
        case(4096, 1000),
        case(128, 10, quick=True, device="cuda"),
        case(65536, 1000, device="cuda"),
    ),
)


def test_class_stats(case: Case[Batch], compare: Callable[[Case[Batch]], None]) -> None:
    compare(case)
