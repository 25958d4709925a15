"""pgd_init: a random start in the ball, beside PyTorch's uniform_, add and clamp.

fairtat draws Philox4x32-10 by sample id, so that a sample's start does not depend on its batch; PyTorch draws one
Mersenne Twister stream for the whole tensor. The start is drawn once per attack.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from harness.case import Benchmark, Case, Contestant, Entrant, Outcome, Settings, Verify, answers
from harness.equality import Mismatch, in_ball
from harness.op import BASELINE, floor, op_contestants
from torch import Tensor

from fairtat import ops

EPS = 8 / 255
SEED = 0
SIGMAS = 6.0  # a correct generator fails one in 10**9 times


def images(settings: Settings, seed: int, shape: tuple[int, ...]) -> Tensor:
    shape = (2, 3, 8, 8) if settings.rehearsal else shape
    return torch.rand(shape, generator=torch.Generator(settings.place).manual_seed(seed), device=settings.place)


def uniform_in_ball(x: Tensor) -> Verify:
    """x_adv stays in the ball and in [0, 1], and where nothing was clipped (x_adv - x) / eps is U[-1, 1).

    The generators differ, so the proof is of the distribution, by its mean and variance. fairtat's start must
    besides equal its reference to the last bit.
    """
    reference = ops.pgd_init(x, EPS, seed=SEED, backend="reference")

    def verify(contestant: str, outcome: Outcome) -> dict[str, float]:
        x_adv = outcome["x_adv"]
        in_ball(x_adv, x, EPS)
        u = ((x_adv - x).double() / EPS)[(x > EPS) & (x < 1.0 - EPS)]
        n = u.numel()
        # Moments of U[-1, 1): mean 0 with variance 1/3, and u**2 has mean 1/3 with variance 4/45.
        z_mean = float(u.mean()) / (1.0 / 3.0 / n) ** 0.5
        z_square = (float(u.square().mean()) - 1.0 / 3.0) / (4.0 / 45.0 / n) ** 0.5
        if not max(abs(z_mean), abs(z_square)) < SIGMAS:
            raise Mismatch(f"the noise is not uniform: mean off by {z_mean:.1f}, square by {z_square:.1f} deviations")
        if contestant.startswith("fairtat") and not torch.equal(x_adv, reference):
            raise Mismatch("the start differs from the reference")
        return {}

    return verify


def chain(x: Tensor) -> Tensor:
    """As attack libraries write it: a new tensor per op."""
    return torch.clamp(x + torch.empty_like(x).uniform_(-EPS, EPS), min=0.0, max=1.0)


def in_place(x: Tensor) -> Tensor:
    return torch.empty_like(x).uniform_(-EPS, EPS).add_(x).clamp_(0.0, 1.0)


def one_expression(x: Tensor) -> Tensor:
    return (x + (torch.rand_like(x) * 2.0 - 1.0) * EPS).clamp(0.0, 1.0)


def compiled(x: Tensor) -> Entrant:
    function = torch.compile(one_expression, dynamic=False)
    return answers("x_adv", lambda: function(x))


def op(x: Tensor, backend: str) -> Entrant:
    return answers("x_adv", lambda: ops.pgd_init(x, EPS, seed=SEED, backend=backend))


def case(name: str, shape: tuple[int, ...], **about: Any) -> Case[Tensor]:
    return Case(name, partial(images, shape=shape), cold=True, **about)


BENCHMARK = Benchmark(
    name="pgd_init",
    question="How fast is a random start in the Linf ball?",
    contestants=(
        *op_contestants(op),
        Contestant("eager, allocating", "eager", lambda x: answers("x_adv", lambda: chain(x)), on=("cpu",)),
        Contestant("eager, in place", "eager", lambda x: answers("x_adv", lambda: in_place(x)), graph=True),
        Contestant("torch.compile", "compile", compiled, graph=True),
        floor(torch.empty_like),  # x read, x_adv written: 8 bytes per element
    ),
    baseline=BASELINE,
    verify=uniform_in_ball,
    rule="inside ball and bounds, noise uniform to 6 deviations; fairtat equal to its reference",
    bytes_moved=lambda x: 8 * x.numel(),
    settings={"eps": "8/255"},
    cases=(
        case("(4, 3, 32, 32)", (4, 3, 32, 32), quick=True),
        case("(128, 3, 32, 32)", (128, 3, 32, 32), headline=True),
        case("(64, 3, 224, 224)", (64, 3, 224, 224)),
        case("(128, 3, 32, 32), cold L2", (128, 3, 32, 32), headline=True, quick=True, device="cuda"),
        case("(448, 3, 224, 224)", (448, 3, 224, 224), device="cuda"),
    ),
)


def test_pgd_init(case: Case[Tensor], compare: Callable[[Case[Tensor]], None]) -> None:
    compare(case)
