"""sample_targets: a target class other than the label, beside the published loop and vectorised PyTorch.

fairtat draws Philox4x32-10 by sample id and compares integers: the same targets on every backend and for every
batch split. The others draw from PyTorch's global generator.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from harness import Benchmark, Case, CaseSpec, Entrant, Mismatch, Outcome, Settings, Verify
from harness.op_case import Rival, op_case
from torch import Tensor

from fairtat import backends, ops

DRAWS = 200_000  # behind each proof of a distribution
SIGMAS = 6.0
TAU = 2.0
RULE = "never the label; chi-square of the targets within 6 deviations over 200,000 draws"


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
    """Vectorised: one uniform number a sample on the weight of the other classes, and a binary search."""
    through = weight.cumsum(0)
    own = weight[label]
    before = through[label] - own
    draw = torch.rand(len(label), dtype=weight.dtype, device=weight.device) * (through[-1] - own)
    draw = torch.where(draw >= before, draw + own, draw)
    return torch.searchsorted(through, draw, right=True).clamp_(max=len(weight) - 1)


def multinomial_rows(label: Tensor, weight: Tensor) -> Tensor:
    """One row of weights a sample, its label's set to 0: N*C numbers for N draws."""
    rows = weight.expand(len(label), -1).scatter(1, label[:, None], 0.0)
    return torch.multinomial(rows, 1)[:, 0]


Batch = tuple[Tensor, Tensor]  # label (N,), weight (C,)


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


def draws(draw: Callable[[int], Tensor], n: int) -> Callable[[], Outcome]:
    """Enough batches for the test of the distribution; ``draw`` is told the number of the batch."""
    return lambda: {"targets": torch.stack([draw(batch) for batch in range(max(1, DRAWS // n))])}


def plain(function: Callable[[Tensor, Tensor], Tensor], batch: Batch) -> Entrant:
    return Entrant(lambda: function(*batch), draws(lambda _: function(*batch), len(batch[0])))


def op(batch: Batch, backend: str) -> Entrant:
    label, weight = batch
    draw = partial(ops.sample_targets, label, ops.target_table(weight), seed=0, backend=backend)  # a table per epoch
    return Entrant(draw, draws(lambda batch: draw(stream=batch), len(label)))


def kernel(batch: Batch) -> Entrant:
    label, weight = batch
    raw = backends.kernel("sample_targets", backends.choose("sample_targets", label.device, label.dtype))
    draw = partial(raw, label, ops.target_table(weight), None, 0)
    return Entrant(lambda: draw(0), draws(draw, len(label)))


def inputs(n: int, classes: int, device: str, seed: int) -> Batch:
    torch.manual_seed(seed)
    label = torch.randint(classes, (n,), device=device)
    # FAIR-TAT's own weights, exp(tau * CFPS), of scores spread wide enough that a wrong rule shows.
    return label, torch.softmax(TAU * torch.linspace(0.0, 1.0, classes, device=device), dim=0)


ON_HOST = "outside a graph: on a GPU it reads from the GPU for every collision"


def build(n: int, classes: int) -> Callable[[Settings], Case]:
    def case(settings: Settings) -> Case:
        return op_case(
            settings, partial(inputs, n, classes), op=op, kernel=kernel,
            rivals=(
                Rival("published rejection loop", "published", partial(plain, published_loop), ON_HOST, graph=False),
                Rival("inverse CDF", "eager", partial(plain, inverse_cdf)),
                Rival("multinomial by row", "eager", partial(plain, multinomial_rows), on=("cpu",)),
            ),
            verify=conditional, rule=RULE,
        )  # fmt: skip

    return case


BENCHMARK = Benchmark(
    name="sample_targets",
    question="How fast is a batch of targets drawn from class weights?",
    settings={"tau": TAU},
    cases=(
        CaseSpec("N=128, C=10", build(128, 10), headline=True, quick=True),
        CaseSpec("N=4096, C=10", build(4096, 10)),
        CaseSpec("N=128, C=1000", build(128, 1000)),
        CaseSpec("N=4096, C=1000", build(4096, 1000)),
        CaseSpec("N=128, C=10", build(128, 10), headline=True, quick=True, device="cuda"),
        CaseSpec("N=4096, C=1000", build(4096, 1000), device="cuda"),
    ),
)


def test_sample_targets(spec: CaseSpec, compare: Callable[[CaseSpec], None]) -> None:
    compare(spec)
