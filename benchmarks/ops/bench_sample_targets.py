"""sample_targets: a target class other than the label, beside the published loop and vectorized PyTorch.

fairtat draws Philox4x32-10 by sample id and compares integers: the same targets on every backend and for every
batch split. The others draw from PyTorch's global generator.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from harness.case import Benchmark, Case, Contestant, Entrant, Outcome, Settings, Verify
from harness.equality import Mismatch
from harness.op import BASELINE, op_contestants
from torch import Tensor

from fairtat import ops

DRAWS = 200_000  # behind each proof of a distribution
SIGMAS = 6.0
TAU = 2.0

Batch = tuple[Tensor, Tensor]  # label (N,), weight (C,)


def published_loop(label: Tensor, weight: Tensor) -> Tensor:
    """In the published style: draw for all, then draw again one by one while a target is the label.

    The published loop leaves a batch with exactly one such sample as it is; this one does not.
    """
    target = torch.multinomial(weight, len(label), replacement=True)
    for i in (target == label).nonzero()[:, 0]:
        while target[i] == label[i]:
            target[i] = torch.multinomial(weight, 1)
    return target


def inverse_cdf(label: Tensor, weight: Tensor) -> Tensor:
    """Vectorized: one uniform number per sample on the weight of the other classes, and a binary search."""
    through = weight.cumsum(0)
    own = weight[label]
    before = through[label] - own
    draw = torch.rand(len(label), dtype=weight.dtype, device=weight.device) * (through[-1] - own)
    draw = torch.where(draw >= before, draw + own, draw)
    return torch.searchsorted(through, draw, right=True).clamp_(max=len(weight) - 1)


def conditional(batch: Batch) -> Verify:
    """No target equals its label, and targets follow P(t | y) = w_t / sum_{j != y} w_j.

    Every contestant has its own random numbers, so the proof is a chi-square test over the classes of a target.
    """
    label, weight = batch
    classes = len(weight)
    w = weight.double()
    share = w / (w.sum() - w)[:, None]  # [y, t]
    share.fill_diagonal_(0.0)
    per_batch = torch.bincount(label, minlength=classes).double() @ share  # expected hits of each target

    def verify(contestant: str, outcome: Outcome) -> dict[str, float]:
        targets = outcome["targets"]  # (batches, N)
        if bool((targets == label).any()):
            raise Mismatch("a target equals its label")
        if int(targets.min()) < 0 or int(targets.max()) >= classes:
            raise Mismatch("a target is not a class")
        wanted = per_batch * len(targets)
        found = torch.bincount(targets.flatten(), minlength=classes).double()
        chi2 = float(((found - wanted).square() / wanted).sum())
        excess = (chi2 - (classes - 1)) / (2.0 * (classes - 1)) ** 0.5
        if not excess < SIGMAS:
            raise Mismatch(f"targets do not follow the weights: chi-square {excess:.1f} deviations too large")
        return {}

    return verify


def drawing(draw: Callable[..., Tensor], n: int) -> Entrant:
    """Answers with enough batches for the test of the distribution; ``draw`` is told the number of the batch."""
    return Entrant(draw, lambda: {"targets": torch.stack([draw(stream=k) for k in range(max(1, DRAWS // n))])})


def plain(function: Callable[[Tensor, Tensor], Tensor], batch: Batch) -> Entrant:
    return drawing(lambda stream=0: function(*batch), len(batch[0]))


def op(batch: Batch, backend: str) -> Entrant:
    label, weight = batch
    table = ops.target_table(weight)  # made once per epoch
    return drawing(partial(ops.sample_targets, label, table, seed=0, backend=backend), len(label))


def case(n: int, classes: int, **about: Any) -> Case[Batch]:
    def inputs(settings: Settings, seed: int) -> Batch:
        torch.manual_seed(seed)
        label = torch.randint(classes, (n,), device=settings.place)
        # FAIR-TAT's own weights, exp(tau * CFPS), of scores spread wide enough that a wrong rule shows.
        return label, torch.softmax(TAU * torch.linspace(0.0, 1.0, classes, device=settings.place), dim=0)

    return Case(f"N={n}, C={classes}", inputs, **about)


BENCHMARK = Benchmark(
    name="sample_targets",
    question="How fast is a batch of targets drawn from class weights?",
    contestants=(
        *op_contestants(op),
        # On a GPU outside a graph: it reads from the GPU for every collision.
        Contestant("published rejection loop", "published", partial(plain, published_loop)),
        Contestant("inverse CDF", "eager", partial(plain, inverse_cdf), graph=True),
    ),
    baseline=BASELINE,
    verify=conditional,
    rule="never the label; chi-square of the targets within 6 deviations over 200,000 draws",
    settings={"tau": TAU},
    cases=(
        case(128, 10, headline=True, quick=True),
        case(4096, 10),
        case(128, 1000),
        case(4096, 1000),
        case(128, 10, headline=True, quick=True, device="cuda"),
        case(4096, 1000, device="cuda"),
    ),
)


def test_sample_targets(case: Case[Batch], compare: Callable[[Case[Batch]], None]) -> None:
    compare(case)
