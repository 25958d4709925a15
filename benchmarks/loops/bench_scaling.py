"""How the cost of ops and attacks grows: the same work, with one of its sizes 1 to 16 times as large.

The sizes are the contestants of a case. Nothing is proved here: each op and attack has a benchmark that does.

    python benchmarks/scaling_plot.py    # draws docs/scaling.png of benchmarks/results/scaling-cpu.json
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from harness.attacks import FP32, attack_with
from harness.case import Benchmark, Case, Contestant, Entrant, Settings
from harness.ranks import epochs

import fairtat
from fairtat import models, ops

FACTORS = (1, 2, 4, 8, 16)
Make = Callable[[int], Entrant]


def class_stats(n: int, classes: int) -> Entrant:
    stats = fairtat.ClassStats(classes)
    pred, label = torch.randint(classes, (2, n))
    loss = torch.rand(n)
    return Entrant(lambda: ops.class_stats_(stats, pred, label, loss=loss))


def logit_loss(n: int, classes: int) -> Entrant:
    logits, target = torch.randn(n, classes), torch.randint(classes, (n,))
    return Entrant(lambda: ops.logit_loss(logits, target))


def pgd_step(n: int, height: int) -> Entrant:
    x, grad = torch.rand(n, 3, height, 32), torch.randn(n, 3, height, 32)
    x_adv = x.clone()
    return Entrant(lambda: ops.pgd_step_(x_adv, grad, x, 8 / 255, 2 / 255))


def attack(n: int, steps: int, threads: int | None = None) -> Entrant:
    torch.manual_seed(0)
    model = models.build("digits_cnn" if threads else "mlp", 10, 1, (8, 8)).eval()
    x, target = torch.rand(n, 1, 8, 8), torch.randint(10, (n,))
    pgd, before = attack_with(model, FP32, "cpu", engine="eager", steps=steps), torch.get_num_threads()

    def run() -> None:
        torch.set_num_threads(threads or before)
        pgd(x, target, return_info=False)
        torch.set_num_threads(before)

    return Entrant(run)


def by_ranks(ranks: int) -> Entrant:
    return Entrant(epochs("digits", "digits_cnn", ranks))


def case(name: str, make: Make, quick: bool = False, in_other_processes: bool = False) -> Case[Make]:
    return Case(name, lambda settings, seed: make, headline=True, quick=quick, in_other_processes=in_other_processes)


def takes_part(factor: int, settings: Settings, make: Make) -> bool:
    """Threads beyond those of the run would only wait for each other, and the processor's time hides what they save."""
    return make not in PARALLEL or factor == 1 or (factor <= torch.get_num_threads() and not settings.processor_time)


by_threads: Make = partial(attack, 512, 5)
PARALLEL: tuple[Make, ...] = (by_threads, by_ranks)

BENCHMARK = Benchmark(
    name="scaling",
    question="How does the cost grow with each size?",
    contestants=tuple(
        Contestant(f"x{f}", "fairtat" if f > 1 else "floor", lambda make, f=f: make(f), when=partial(takes_part, f))  # type: ignore[misc]
        for f in FACTORS
    ),
    baseline={"cpu": "x1"},
    verify=lambda make: lambda name, outcome: {},
    rule="none: each op and attack has a benchmark that proves what it computes",
    cases=(
        case("`class_stats`, N from 512, C=10", lambda f: class_stats(512 * f, 10), quick=True),
        case("`class_stats`, C from 10, N=2048", lambda f: class_stats(2048, 10 * f)),
        case("`logit_loss`, N from 128, C=10", lambda f: logit_loss(128 * f, 10)),
        case("`logit_loss`, C from 64, N=128", lambda f: logit_loss(128, 64 * f)),
        case("`pgd_step`, N from 8, D=3072", lambda f: pgd_step(8 * f, 32)),
        case("`pgd_step`, D from 384, N=64", lambda f: pgd_step(64, 4 * f)),
        case("PGD on an MLP, N from 32, K=10", lambda f: attack(32 * f, 10)),
        case("PGD on an MLP, K from 5, N=128", lambda f: attack(128, 5 * f)),
        case("PGD on the digits CNN, threads, N=512, K=5", by_threads),
        case("an epoch of FAIR-TAT on digits, ranks of one thread", by_ranks, in_other_processes=True),
    ),
)


def test_scaling(case: Case[Make], compare: Callable[[Case[Make]], None]) -> None:
    compare(case)
