"""The engines of a whole targeted PGD-10, in float32 and bfloat16, beside torchattacks.

Ratios are to fairtat's eager engine; the targets are ratios to torchattacks, whose attack is the same loop in
float32. Strength stands beside each time: mean loss towards the target, and the share that reached it. Compilation
comes before timing: seconds for a small network, half a minute for a ResNet, kept on disk.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench_attack
import peers
import torch
from bench_attack import EPS, MOST_LOSS, MOST_PIXELS, MOST_SUCCESS, STEP_SIZE, STEPS, Workload
from harness import Benchmark, Case, CaseSpec, Contestant, Entrant, Mismatch, Outcome, Settings, Target, Verify
from torch import Tensor

import fairtat

EAGER, COMPILED, MODEL = "fairtat, eager", "fairtat, compiled", "torch.compile of the model"
EAGER_BF16, COMPILED_BF16 = "fairtat, eager, bf16", "fairtat, compiled, bf16"
PEER, BARE = "torchattacks", "bare model"

MOST_BF16_LOSS = 0.05  # relative; single samples go other ways, so pixels are reported and not limited


def native_bf16() -> bool:
    """Whether this CPU multiplies bfloat16 numbers itself; where it does not, bf16 has no target."""
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.is_file() and "avx512_bf16" in cpuinfo.read_text()


def ours(work: Workload, engine: str, amp: torch.dtype | None = None, compile_model: bool = False) -> Entrant:
    model: Any = work.own_model()
    if compile_model:
        model = torch.compile(model)

    def run() -> Tensor:
        return fairtat.fast_targeted_pgd(
            model, work.x, work.target, eps=EPS, step_size=STEP_SIZE, steps=STEPS, init="zero", seed=0,
            engine=engine, amp=amp,
        )  # fmt: skip

    return Entrant(run, lambda: {"x_adv": run()})


def as_strong_as(work: Workload, expected: Tensor) -> Verify:
    """In the ball, with the loss and success of the textbook loop, and in float32 nearly its pixels.

    A deep network amplifies rounding from step to step, in any implementation. What that amounts to on this one, the
    textbook loop in float64 tells.
    """
    loss, success = work.strength(expected)
    pixels_of_rounding = differing_pixels(double_precision(work), expected)

    def verify(contestant: str, outcome: Outcome) -> dict[str, float]:
        x_adv = outcome["x_adv"]
        if float((x_adv - work.x).abs().max()) > EPS + 1e-6 or float(x_adv.min()) < 0.0 or float(x_adv.max()) > 1.0:
            raise Mismatch("x_adv leaves the ball or the bounds")
        low = contestant in (EAGER_BF16, COMPILED_BF16)
        its_loss, its_success = work.strength(x_adv)
        if abs(its_loss - loss) > (MOST_BF16_LOSS if low else MOST_LOSS) * loss:
            raise Mismatch(f"mean target loss is {its_loss:.4f}, expected {loss:.4f}")
        if abs(its_success - success) > max(MOST_SUCCESS, 1.0 / len(expected)) + 1e-6:
            raise Mismatch(f"success is {its_success:.3f}, expected {success:.3f}")
        pixels = differing_pixels(x_adv, expected)
        if not low and pixels > max(MOST_PIXELS, 3 * pixels_of_rounding):
            raise Mismatch(f"{pixels:.1%} of the pixels differ, {pixels_of_rounding:.1%} in float64")
        return {"target_loss": its_loss, "success": its_success, "differing_pixels": pixels}

    return verify


def differing_pixels(x_adv: Tensor, expected: Tensor) -> float:
    """The share that is more than half a step away."""
    return float(((x_adv - expected).abs() > STEP_SIZE / 2).float().mean())


def double_precision(work: Workload) -> Tensor:
    problem = work.problem()
    exact = dataclasses.replace(problem, model=problem.model.double(), x=problem.x.double())
    return peers.textbook(exact)().float()


def build(
    name: str, shape: tuple[int, int, int, int], *, rate: float = 5e-3, compiled: float, bf16: float | None = None
) -> Callable[[Settings], Case]:
    def case(settings: Settings) -> Case:
        work = Workload(name, shape, rate=rate, train=False)
        targets = [Target(COMPILED, (PEER,), "faster", compiled)]
        if bf16 is not None and native_bf16():
            targets.append(Target(COMPILED_BF16, (PEER,), "faster", bf16))
        low = torch.bfloat16
        return Case(
            contestants=(
                Contestant(BARE, "floor", lambda: bench_attack.bare(work), "eager, float32"),
                Contestant(EAGER, "fairtat", lambda: ours(work, "eager")),
                Contestant(COMPILED, "fairtat", lambda: ours(work, "compiled")),
                Contestant(EAGER_BF16, "fairtat", lambda: ours(work, "eager", low)),
                Contestant(COMPILED_BF16, "fairtat", lambda: ours(work, "compiled", low)),
                Contestant(MODEL, "compile", lambda: ours(work, "eager", compile_model=True), "in fairtat's loop"),
                Contestant(PEER, "peer", lambda: bench_attack.theirs(work, peers.torchattacks)),
            ),
            baseline=EAGER,
            verify=as_strong_as(work, peers.textbook(work.problem())()),
            rule=(
                f"target loss within {MOST_LOSS:.0%} of the textbook loop's (bf16: {MOST_BF16_LOSS:.0%}), success "
                f"within half a point or one sample; float32: at most {MOST_PIXELS:.0%} of pixels off, or three "
                "times the share that float64 puts off"
            ),
            targets=tuple(targets),
        )

    return case


BENCHMARK = Benchmark(
    name="engines",
    question="How much faster is a targeted PGD-10 as a compiled graph, and in bfloat16?",
    settings=bench_attack.SETTINGS,
    cases=(
        CaseSpec(
            "PreActResNet-18, 32x3x32x32",
            build("preact_resnet18", (32, 3, 32, 32), rate=5e-4, compiled=1.15, bf16=2.0),
            headline=True,
        ),
        CaseSpec("MNIST CNN, 256x1x28x28", build("mnist_cnn", (256, 1, 28, 28), compiled=1.4, bf16=2.0), headline=True),
        CaseSpec("digits CNN, 128x1x8x8", build("digits_cnn", (128, 1, 8, 8), compiled=1.4), headline=True),
        CaseSpec("MLP 64-128-10, 128x1x8x8", build("mlp", (128, 1, 8, 8), compiled=2.5), headline=True, quick=True),
    ),
)


def test_engines(spec: CaseSpec, compare: Callable[[CaseSpec], None]) -> None:
    compare(spec)
