"""logit_stats_: per-class counts of a batch from its logits, beside logit_loss with class_stats_ and eager PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from bench_class_stats import SameSums, rates
from harness import Benchmark, Case, CaseSpec, Entrant, Settings, Target, Verify, close_to, gpu
from harness.op_case import COPY, FAIRTAT, Rival, op_case
from torch import Tensor

import fairtat
from fairtat import backends, ops

PARTS, EAGER = "logit_loss, then class_stats_", "cross_entropy, argmax, index_add"
TOLERANCE = 1e-5
RULE = f"every count equal to a float64 computation, loss sums within {TOLERANCE:.0e}"

Batch = tuple[Tensor, Tensor]  # logits (N, C), label (N,)


def inputs(n: int, classes: int, dtype: torch.dtype, device: str = "cpu", seed: int = 0) -> Batch:
    generator = torch.Generator(device).manual_seed(seed)
    logits = (torch.randn(n, classes, generator=generator, device=device) * 3.0).to(dtype)
    return logits, torch.randint(classes, (n,), generator=generator, device=device)


def read(stats: fairtat.ClassStats) -> dict[str, Tensor]:
    return rates(stats.confusion) | {"loss_sum": stats.loss_sum}


def entrant(count: Callable[[fairtat.ClassStats, Batch], object], batch: Batch) -> Entrant:
    """What is timed goes on counting into the same statistics; an answer is that of one count from zero."""
    logits = batch[0]

    def outcome() -> dict[str, Tensor]:
        fresh = fairtat.ClassStats(logits.shape[1], device=logits.device)
        count(fresh, batch)
        return read(fresh)

    kept = fairtat.ClassStats(logits.shape[1], device=logits.device)
    return Entrant(lambda: count(kept, batch), outcome)


def op(batch: Batch, backend: str) -> Entrant:
    return entrant(lambda stats, b: ops.logit_stats_(stats, *b, backend=backend), batch)


def kernel(batch: Batch) -> Entrant:
    chosen = backends.choose("logit_stats", torch.device("cpu"), batch[0].dtype)
    raw = backends.kernel("logit_stats", chosen)
    return entrant(lambda stats, b: raw(stats.buffer, *b, None), batch)


def in_parts(stats: fairtat.ClassStats, batch: Batch) -> None:
    logits, label = batch
    result = ops.logit_loss(logits, label)
    ops.class_stats_(stats, result.pred, label, loss=result.loss)


def eager(batch: Batch) -> Entrant:
    """The best form in PyTorch of the same sums: fixed point, in one word."""
    logits, label = batch
    classes = logits.shape[1]
    ones = torch.ones_like(label)

    class Counted:
        def __init__(self) -> None:
            self.confusion = torch.zeros(classes, classes, dtype=torch.int64, device=logits.device)
            self.sums = SameSums(classes, logits.device)

        def add(self) -> None:
            loss = torch.nn.functional.cross_entropy(logits.float(), label, reduction="none")
            self.confusion.view(-1).index_add_(0, label * classes + logits.argmax(1), ones)
            self.sums.add(loss, label)

    def outcome() -> dict[str, Tensor]:
        fresh = Counted()
        fresh.add()
        return rates(fresh.confusion) | {"loss_sum": fresh.sums.read()["loss_sum"]}

    return Entrant(Counted().add, outcome)


def copy(batch: Batch) -> Entrant:
    """Of half the rows: the op reads its logits and writes next to nothing."""
    half = batch[0][: (len(batch[0]) + 1) // 2]
    copied = torch.empty_like(half)
    return Entrant(lambda: copied.copy_(half))


def equal_counts(batch: Batch) -> Verify:
    logits, label = batch
    stats = fairtat.ClassStats(logits.shape[1], device=logits.device)
    ops.logit_stats_(stats, logits.double(), label, backend="reference")
    return close_to(read(stats), {"loss_sum": TOLERANCE})


def build(
    n: int, classes: int, dtype: torch.dtype = torch.float32, targets: tuple[Target, ...] = ()
) -> Callable[[Settings], Case]:
    def case(settings: Settings) -> Case:
        rows = 8 if settings.rehearsal else n
        return op_case(
            settings, partial(inputs, rows, classes, dtype), op=op, kernel=kernel,
            rivals=(
                Rival(PARTS, "eager", partial(entrant, in_parts)),
                Rival(EAGER, "eager", eager),
                Rival(COPY, "floor", copy),
            ),
            verify=equal_counts, rule=RULE, bytes_moved=lambda _: rows * classes * dtype.itemsize, targets=targets,
        )  # fmt: skip

    return case


FASTER = (Target(FAIRTAT, (PARTS, EAGER), "faster", 1.0),)
GPU_FASTER = tuple(Target(name, (EAGER,), "faster", 1.0) for name in (gpu.CUDA, gpu.TRITON))

BENCHMARK = Benchmark(
    name="logit_stats",
    question="What does it cost to count a batch by class, from its logits?",
    cases=(
        CaseSpec("N=128, C=10", build(128, 10, targets=FASTER), headline=True, quick=True),
        CaseSpec("N=4096, C=10", build(4096, 10, targets=FASTER)),
        CaseSpec("N=4096, C=1000", build(4096, 1000, targets=FASTER), headline=True),
        CaseSpec("N=4096, C=1000, bfloat16", build(4096, 1000, torch.bfloat16)),
        CaseSpec("N=128, C=10", build(128, 10, targets=GPU_FASTER), headline=True, quick=True, device="cuda"),
        CaseSpec("N=4096, C=1000", build(4096, 1000, targets=GPU_FASTER), headline=True, device="cuda"),
    ),
)


def test_logit_stats(spec: CaseSpec, compare: Callable[[CaseSpec], None]) -> None:
    compare(spec)
