"""pgd_init: a random start in the ball, beside PyTorch's uniform_, add and clamp.

fairtat draws Philox4x32-10 by sample id, so that a sample's start does not depend on its batch; PyTorch draws one
Mersenne Twister stream for the whole tensor. The start is drawn once an attack.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from harness import Benchmark, Case, CaseSpec, Entrant, Mismatch, Outcome, Settings, Verify
from harness.op_case import COPY, Rival, op_case
from torch import Tensor

from fairtat import backends, ops

EPS = 8 / 255
SEED = 0
SIGMAS = 6.0  # a correct generator fails one in 10**9 times
RULE = "inside ball and bounds, noise uniform to 6 deviations; fairtat equal to its reference"


def images(shape: tuple[int, ...], channels_last: bool, device: str = "cpu", seed: int = 0) -> Tensor:
    x = torch.rand(shape, generator=torch.Generator(device).manual_seed(seed), device=device)
    return x.contiguous(memory_format=torch.channels_last) if channels_last else x


def uniform_in_ball(x: Tensor, eps: float) -> Verify:
    """x_adv stays in the ball and in [0, 1], and where nothing was clipped (x_adv - x) / eps is U[-1, 1).

    The generators differ, so the proof is of the distribution: mean, variance and each sample's own mean.
    fairtat's start must besides equal its reference to the last bit.
    """
    reference = ops.pgd_init(x, eps, seed=SEED, backend="reference")

    def verify(contestant: str, outcome: Outcome) -> dict[str, float]:
        x_adv = outcome["x_adv"]
        if float((x_adv - x).abs().max()) > eps + 1e-6 or float(x_adv.min()) < 0.0 or float(x_adv.max()) > 1.0:
            raise Mismatch("x_adv leaves the ball or the bounds")
        u = ((x_adv - x).double() / eps)[(x > eps) & (x < 1.0 - eps)]
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


def eager(x: Tensor) -> Entrant:
    def run() -> Tensor:
        return torch.empty_like(x).uniform_(-EPS, EPS).add_(x).clamp_(0.0, 1.0)

    return Entrant(run, lambda: {"x_adv": run()})


def eager_chain(x: Tensor) -> Entrant:
    """As attack libraries write it: a new tensor an op."""

    def run() -> Tensor:
        return torch.clamp(x + torch.empty_like(x).uniform_(-EPS, EPS), min=0.0, max=1.0)

    return Entrant(run, lambda: {"x_adv": run()})


def start(x: Tensor) -> Tensor:
    return (x + (torch.rand_like(x) * 2.0 - 1.0) * EPS).clamp(0.0, 1.0)


def compiled(x: Tensor) -> Entrant:
    function = torch.compile(start, dynamic=False)
    return Entrant(lambda: function(x), lambda: {"x_adv": function(x)})


def op(x: Tensor, backend: str = "auto") -> Entrant:
    def run() -> Tensor:
        return ops.pgd_init(x, EPS, seed=SEED, backend=backend)

    return Entrant(run, lambda: {"x_adv": run()})


def kernel(x: Tensor) -> Entrant:
    """Below the dispatcher, into a tensor that is there already."""
    raw = backends.kernel("pgd_init", backends.choose("pgd_init", x.device, x.dtype))
    out = torch.empty_like(x)

    def run() -> Tensor:
        raw(out, x, None, EPS, None, SEED, 0, "uniform", "linf", 0.0, 1.0)
        return out

    return Entrant(run, lambda: {"x_adv": run()})


def copy(x: Tensor) -> Entrant:
    """x read, x_adv written: 8 bytes an element."""
    destination = torch.empty_like(x)
    return Entrant(lambda: destination.copy_(x))


def build(shape: tuple[int, ...], *, channels_last: bool = False) -> Callable[[Settings], Case]:
    def case(settings: Settings) -> Case:
        size = (2, 3, 8, 8) if settings.rehearsal else shape
        return op_case(
            settings, partial(images, size, channels_last), op=op, kernel=kernel,
            rivals=(
                Rival("eager, allocating", "eager", eager_chain, on=("cpu",)),
                Rival("eager, in place", "eager", eager),
                Rival("torch.compile", "compile", compiled),
                Rival(COPY, "floor", copy),
            ),
            verify=partial(uniform_in_ball, eps=EPS), rule=RULE, bytes_moved=lambda x: 8 * x.numel(), cold=True,
        )  # fmt: skip

    return case


BENCHMARK = Benchmark(
    name="pgd_init",
    question="How fast is a random start in the Linf ball?",
    settings={"eps": "8/255"},
    cases=(
        CaseSpec("(4, 3, 32, 32)", build((4, 3, 32, 32)), quick=True),
        CaseSpec("(128, 3, 32, 32)", build((128, 3, 32, 32)), headline=True),
        CaseSpec("(128, 3, 32, 32), channels_last", build((128, 3, 32, 32), channels_last=True)),
        CaseSpec("(64, 3, 224, 224)", build((64, 3, 224, 224))),
        CaseSpec("(128, 3, 32, 32), cold L2", build((128, 3, 32, 32)), headline=True, quick=True, device="cuda"),
        CaseSpec("(448, 3, 224, 224)", build((448, 3, 224, 224)), device="cuda"),
    ),
)


def test_pgd_init(spec: CaseSpec, compare: Callable[[CaseSpec], None]) -> None:
    compare(spec)
