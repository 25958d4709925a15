"""What a call of each op costs beyond its kernel, for a small batch on the CPU: ``python benchmarks/host_time.py``.

Three ways of one call are timed in turn, in one process, a few calls at a time after some that are not timed: the
kernel alone with its arguments checked, the public function as people call it, and the public function where the one
check in the core says no, so that the checks in Python run. The thread's own time counts, so what else the machine does
takes part only through its caches. Medians and the lowest, in microseconds.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from fairtat import ClassStats, backends, ops

N, CLASSES = 128, 10
WARM, TIMED = 20, 20
Call = Callable[[], object]


def calls() -> dict[str, tuple[Call, Call]]:
    """Op -> (its kernel, the public function), for the same arguments."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(N, 1, 8, 8, generator=generator)
    x_adv, grad = x.clone(), torch.randn(x.shape, generator=generator)
    logits, loss = torch.randn(N, CLASSES, generator=generator), torch.rand(N, generator=generator)
    label, target = torch.randint(CLASSES, (2, N), generator=generator)
    table, stats = ops.target_table(torch.ones(CLASSES)), ClassStats(CLASSES)
    buffer, eps, step = stats.buffer, 8 / 255, 2 / 255
    run = {op: backends.kernel(op, "cpu") for op in backends.OPS}
    steps = (x_adv, grad, x, None, eps, None, step, True, "linf", 0.0, 1.0, *[None] * 5, 0.0, 0)
    return {
        "pgd_init": (
            lambda: run["pgd_init"](
                torch.empty_like(x), x, None, eps, None, 1, 0, "uniform", "linf", 0.0, 1.0, *[None] * 4
            ),
            lambda: ops.pgd_init(x, eps, seed=1),
        ),
        "pgd_step": (lambda: run["pgd_step"](*steps), lambda: ops.pgd_step_(x_adv, grad, x, eps, step)),
        "logit_loss": (
            lambda: run["logit_loss"](logits, target, "ce", None, None, None, None),
            lambda: ops.logit_loss(logits, target),
        ),
        "sample_targets": (
            lambda: run["sample_targets"](label, table, None, 1, 0),
            lambda: ops.sample_targets(label, table, seed=1),
        ),
        "class_stats": (
            lambda: run["class_stats"](buffer, target, label, loss, None),
            lambda: ops.class_stats_(stats, target, label, loss=loss),
        ),
        "logit_stats": (
            lambda: run["logit_stats"](buffer, logits, label, None),
            lambda: ops.logit_stats_(stats, logits, label),
        ),
    }


@contextlib.contextmanager
def checks_in_python(op: str) -> Iterator[None]:
    """In this context no call of the op is a usual one."""
    module: Any = importlib.import_module(f"fairtat.ops.{op}")
    registered = module._op
    module._op = dataclasses.replace(registered, usual=lambda *_: None)
    try:
        yield
    finally:
        module._op = registered


def timed(call: Call) -> float:
    """Microseconds of one of a few calls."""
    for _ in range(WARM):
        call()
    start = time.thread_time()
    for _ in range(TIMED):
        call()
    return (time.thread_time() - start) / TIMED * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--rounds", type=int, default=300, help="how often each is timed (default: 300)")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(f"us of a call, N={N}: median (lowest) of {rounds} rounds of {TIMED} calls")
    print(
        f"{'op':<15}{'kernel':>16}{'public':>16}{'checks in Python':>20}{'public - kernel':>20}{'checks - kernel':>20}"
    )
    for op, (kernel, public) in calls().items():
        times: tuple[list[float], list[float], list[float]] = ([], [], [])
        for _ in range(rounds):
            times[0].append(timed(kernel))
            times[1].append(timed(public))
            with checks_in_python(op):
                times[2].append(timed(public))
        medians, lowest = [statistics.median(t) for t in times], [min(t) for t in times]
        row = [f"{m:.2f} ({low:.2f})" for m, low in zip(medians, lowest, strict=True)]
        more = [f"{medians[i] - medians[0]:.2f} ({lowest[i] - lowest[0]:.2f})" for i in (1, 2)]
        print(f"{op:<15}{row[0]:>16}{row[1]:>16}{row[2]:>20}{more[0]:>20}{more[1]:>20}")


if __name__ == "__main__":
    main()
