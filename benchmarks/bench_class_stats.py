"""class_stats_: per-class counts of a batch, beside the published loops, bincount and torchmetrics.

Predictions are given, so argmax costs nothing here. 'observed' follows 10,000 further calls: bytes of tensors that
one call allocates, growth of the process, and the cost of late calls over early ones.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Benchmark, Case, CaseSpec, Device, Entrant, Role, Settings, Target, equal_to, gpu
from harness.op_case import FAIRTAT, KERNEL, Rival, op_case
from torch import Tensor
from torchvision_beside_cpu import make_importable

import fairtat
from fairtat import backends, ops
from fairtat.reference import class_stats as layout

PYTHON_LISTS, PUBLISHED, PUBLISHED_TENSORS = "Python loop", "published loop, arrays", "published loop, tensors"
BINCOUNT, INDEX_ADD, TORCHMETRICS = "bincount + index_add", "index_add in place", "torchmetrics"
FLOAT_SUMS = "index_add, float64 sums"
RULE = "every count and loss sum equal to a brute-force loop"
CALLS = 10_000  # behind the figures on memory and on flat cost


class Batch:
    """Predictions that are right about half of the time, labels, and losses that a float64 sums exactly."""

    def __init__(self, n: int, classes: int, device: str = "cpu") -> None:
        generator = torch.Generator().manual_seed(0)
        self.classes, self.device = classes, device
        label = torch.randint(classes, (n,), generator=generator)
        guess = torch.randint(classes, (n,), generator=generator)
        self.label = label.to(device)
        self.pred = torch.where(torch.rand(n, generator=generator) < 0.5, label, guess).to(device)
        self.loss = (torch.randint(1 << 12, (n,), generator=generator).float() / 256.0).to(device)

    def expected(self) -> dict[str, Tensor]:
        """By brute force, in plain Python integers and floats."""
        confusion = [[0] * self.classes for _ in range(self.classes)]
        loss_sum = [0.0] * self.classes
        for p, y, value in zip(self.pred.tolist(), self.label.tolist(), self.loss.tolist(), strict=True):
            confusion[y][p] += 1
            loss_sum[y] += value
        return {
            "loss_sum": torch.tensor(loss_sum, dtype=torch.float64, device=self.device),
            "nonfinite": torch.zeros(self.classes, dtype=torch.int64, device=self.device),
        } | rates(torch.tensor(confusion, device=self.device))


def rates(confusion: Tensor) -> dict[str, Tensor]:
    """What every method has to know of a batch; the confusion matrix itself for those that keep one."""
    correct = confusion.diagonal()
    return {
        "confusion": confusion,
        "correct": correct,
        "false_positive": confusion.sum(0) - correct,
        "false_negative": confusion.sum(1) - correct,
    }


# Count the batch once more; read the counts.
Counter = tuple[Callable[[], object], Callable[[], dict[str, Tensor]]]


def entrant(make: Callable[[Batch], Counter], batch: Batch) -> Entrant:
    """What is timed goes on counting into the same statistics; an answer is that of one count from zero."""

    def outcome() -> dict[str, Tensor]:
        count, read = make(batch)
        count()
        return read()

    return Entrant(make(batch)[0], outcome)


def op(batch: Batch, backend: str = "auto") -> Counter:
    stats = fairtat.ClassStats(batch.classes, device=batch.device)
    return (
        lambda: ops.class_stats_(stats, batch.pred, batch.label, loss=batch.loss, backend=backend),
        lambda: rates(stats.confusion) | {"loss_sum": stats.loss_sum, "nonfinite": stats.nonfinite},
    )


def kernel(batch: Batch) -> Counter:
    stats = fairtat.ClassStats(batch.classes)
    raw = backends.kernel("class_stats", backends.choose("class_stats", torch.device("cpu"), torch.float32))
    return (
        lambda: raw(stats.buffer, batch.pred, batch.label, batch.loss, None),
        lambda: rates(stats.confusion) | {"loss_sum": stats.loss_sum, "nonfinite": stats.nonfinite},
    )


def python_lists(batch: Batch) -> Counter:
    """The fastest plain loop: over Python numbers, into Python lists."""
    classes = batch.classes
    confusion = [[0] * classes for _ in range(classes)]
    loss_sum = [0.0] * classes

    def count() -> None:
        for p, y, value in zip(batch.pred.tolist(), batch.label.tolist(), batch.loss.tolist(), strict=True):
            confusion[y][p] += 1
            loss_sum[y] += value

    return count, lambda: rates(torch.tensor(confusion)) | {"loss_sum": torch.tensor(loss_sum, dtype=torch.float64)}


def published_arrays(batch: Batch) -> Counter:
    """In the style of FAIR-TAT's logger: numpy counters of right, wrongly predicted and missed, by sample."""
    right, landed, missed = (np.zeros(batch.classes) for _ in range(3))

    def count() -> None:
        pred, label = batch.pred.cpu().numpy(), batch.label.cpu().numpy()
        hit = pred == label
        for i, y in enumerate(label):
            if hit[i]:
                right[y] += 1
            else:
                landed[pred[i]] += 1
                missed[y] += 1

    return count, lambda: {
        "correct": torch.from_numpy(right).to(batch.device),
        "false_positive": torch.from_numpy(landed).to(batch.device),
        "false_negative": torch.from_numpy(missed).to(batch.device),
    }


def published_tensors(batch: Batch) -> Counter:
    """In the style of CFA's logger: one tensor element at a time, right predictions only."""
    right = torch.zeros(batch.classes)

    def count() -> None:
        hit = batch.pred == batch.label
        for i, y in enumerate(batch.label):
            if hit[i]:
                right[y] += 1

    return count, lambda: {"correct": right}


class SameSums:
    """Loss sums as the op has them, in PyTorch: integers that no order changes, losses that are not finite apart.

    In one word, where the op has two: less work, and sums that wrap from 2**31 on.
    """

    def __init__(self, classes: int, device: torch.device | str) -> None:
        self.fixed = torch.zeros(classes, dtype=torch.int64, device=device)
        self.nonfinite = torch.zeros_like(self.fixed)

    def add(self, loss: Tensor, label: Tensor) -> None:
        value = loss.double()
        fits = value.abs() <= layout.LOSS_MAX
        self.fixed.index_add_(0, label, torch.where(fits, value * layout.LOSS_SCALE, 0.0).round().long())
        self.nonfinite.index_add_(0, label, (~fits).long())

    def read(self) -> dict[str, Tensor]:
        return {"loss_sum": self.fixed.double() / layout.LOSS_SCALE, "nonfinite": self.nonfinite}


def bincount(batch: Batch) -> Counter:
    classes = batch.classes
    confusion = torch.zeros(classes, classes, dtype=torch.int64, device=batch.device)
    sums = SameSums(classes, batch.device)

    def count() -> None:
        cells = torch.bincount(batch.label * classes + batch.pred, minlength=classes * classes)
        confusion.add_(cells.view(classes, classes))
        sums.add(batch.loss, batch.label)

    return count, lambda: rates(confusion) | sums.read()


def index_add(batch: Batch) -> Counter:
    """Without bincount's C*C result a call: the best form for many classes."""
    classes = batch.classes
    confusion = torch.zeros(classes, classes, dtype=torch.int64, device=batch.device)
    sums = SameSums(classes, batch.device)
    ones = torch.ones_like(batch.label)

    def count() -> None:
        confusion.view(-1).index_add_(0, batch.label * classes + batch.pred, ones)
        sums.add(batch.loss, batch.label)

    return count, lambda: rates(confusion) | sums.read()


def float_sums(batch: Batch) -> Counter:
    """Less work: sums that depend on the order, and that one NaN spoils."""
    classes = batch.classes
    confusion = torch.zeros(classes, classes, dtype=torch.int64, device=batch.device)
    loss_sum = torch.zeros(classes, dtype=torch.float64, device=batch.device)
    ones = torch.ones_like(batch.label)

    def count() -> None:
        confusion.view(-1).index_add_(0, batch.label * classes + batch.pred, ones)
        loss_sum.index_add_(0, batch.label, batch.loss.double())

    return count, lambda: rates(confusion) | {"loss_sum": loss_sum}


def torchmetrics_matrix(batch: Batch) -> Counter:
    make_importable()  # torchmetrics imports it where it finds it
    from torchmetrics.classification import MulticlassConfusionMatrix

    metric = MulticlassConfusionMatrix(batch.classes, validate_args=False)
    return (lambda: metric.update(batch.pred, batch.label)), lambda: rates(metric.compute())


def memory_and_drift(calls: int) -> Callable[[Mapping[str, Entrant]], dict[str, Any]]:
    """Over ``calls`` calls: growth of the process, tensor bytes allocated by a call, and late against early cost."""

    def observe(entrants: Mapping[str, Entrant]) -> dict[str, Any]:
        watched = (FAIRTAT, KERNEL, BINCOUNT, INDEX_ADD, TORCHMETRICS)
        return {name: _observe(entrants[name].run, calls) for name in watched if name in entrants}

    return observe


def _observe(run: Callable[[], object], calls: int) -> dict[str, Any]:
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with _quiet_stderr(), torch.profiler.profile(activities=cpu, profile_memory=True) as profile:
        run()
    allocated = sum(max(0, event.self_cpu_memory_usage) for event in profile.events())
    run()
    before = _resident()
    tenth = max(1, calls // 10)
    seconds = [_seconds(run, tenth) for _ in range(10)]
    return {
        "bytes_a_call": allocated,
        "resident_growth_kib": (_resident() - before) // 1024,
        "late_over_early": round(min(seconds[5:]) / min(seconds[:5]), 3),
    }


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Some builds of the profiler announce every start and stop, from C++, to the terminal."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _seconds(run: Callable[[], object], calls: int) -> float:
    begin = time.perf_counter()
    for _ in range(calls):
        run()
    return time.perf_counter() - begin


def _resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def graph_waits(settings: Settings, batch: Batch) -> Callable[[Mapping[str, Entrant]], dict[str, Any]]:
    """Which contestants make the host wait for the GPU."""

    def observe(entrants: Mapping[str, Entrant]) -> dict[str, Any]:
        counters = {gpu.contestant_name(b): partial(op, backend=b) for b in gpu.kernel_names(settings)}
        counters = {name: make for name, make in counters.items() if name in entrants} | {BINCOUNT: partial(bincount)}
        return {name: {"host_waits": gpu.host_waits(make(batch)[0], batch.device)} for name, make in counters.items()}

    return observe


def build(n: int, classes: int, targets: tuple[Target, ...] = (), on: Device = "cpu") -> Callable[[Settings], Case]:
    def rival(name: str, role: Role, make: Callable[[Batch], Counter], note: str = "", **more: Any) -> Rival[Batch]:
        return Rival(name, role, partial(entrant, make), note, **more)

    rivals = (
        rival(PYTHON_LISTS, "published", python_lists, on=("cpu",)),
        rival(PUBLISHED, "published", published_arrays, "no confusion matrix, no loss", graph=False),
        rival(PUBLISHED_TENSORS, "published", published_tensors, "right answers only", on=("cpu",)),
        rival(BINCOUNT, "eager", bincount, "on a GPU outside a graph: it reads from the GPU", graph=False),
        rival(INDEX_ADD, "eager", index_add),
        rival(FLOAT_SUMS, "eager", float_sums, "order-dependent sums, none apart"),
        rival(TORCHMETRICS, "peer", torchmetrics_matrix, "no loss", on=("cpu",)),
    )

    def case(settings: Settings) -> Case:
        size = (64, 10) if settings.rehearsal else (n, classes)
        batch = Batch(*size, settings.device)
        observe = memory_and_drift(100 if settings.quick else CALLS) if on == "cpu" else graph_waits(settings, batch)
        return op_case(
            settings, lambda device, seed: batch, op=lambda b, backend: entrant(partial(op, backend=backend), b),
            kernel=partial(entrant, kernel), rivals=rivals, verify=lambda b: equal_to(b.expected()), rule=RULE,
            targets=targets, observe=observe,
        )  # fmt: skip

    return case


GOALS = (Target(FAIRTAT, (PUBLISHED,), "faster", 50.0), Target(FAIRTAT, (BINCOUNT, INDEX_ADD), "faster", 3.0))
GPU_GOALS = tuple(Target(name, (BINCOUNT, INDEX_ADD), "faster", 20.0) for name in (gpu.CUDA, gpu.TRITON))

BENCHMARK = Benchmark(
    name="class_stats",
    question="What does it cost to count a batch by class?",
    cases=(
        CaseSpec("N=128, C=10", build(128, 10), headline=True, quick=True),
        CaseSpec("N=4096, C=10", build(4096, 10, GOALS), headline=True),
        CaseSpec("N=4096, C=1000", build(4096, 1000, GOALS), headline=True),
        CaseSpec("N=128, C=10", build(128, 10, on="cuda"), headline=True, quick=True, device="cuda"),
        CaseSpec("N=65536, C=1000", build(65536, 1000, GPU_GOALS, on="cuda"), headline=True, device="cuda"),
    ),
)


def test_class_stats(spec: CaseSpec, compare: Callable[[CaseSpec], None]) -> None:
    compare(spec)
