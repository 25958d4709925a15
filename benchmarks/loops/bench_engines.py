"""The engines of a whole targeted PGD-10, in float32 and bfloat16, beside torchattacks.

Ratios are to fairtat's eager engine; torchattacks runs the same loop in float32. Compilation comes before timing:
seconds for a small network, half a minute for a ResNet, kept on disk. On a GPU the question is what is left to gain
once a graph has taken the host's time away: the floor is the bare model in a graph, and all run in bfloat16.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from harness import peers
from harness.attacks import (
    BF16,
    BF16_LAST,
    LOW_PRECISION,
    ON_GPU,
    SETTINGS,
    Like,
    Workload,
    as_strong_as,
    bare,
    case,
    ours,
    theirs,
)
from harness.case import Benchmark, Case, Contestant, Entrant, Role

EAGER, EAGER_BF16, COMPILED_BF16 = "fairtat, eager", "fairtat, eager, bf16", "fairtat, compiled, bf16"
GPU_BARE = f"bare model, {BF16_LAST.name}"
COMPILED_LIKE = Like(roundings=3.0)


def on_cpu(name: str, role: Role, make: Callable[[Workload], Entrant]) -> Contestant[Workload]:
    return Contestant(name, role, make, on=("cpu",))


def on_gpu(name: str, role: Role, make: Callable[..., Entrant], **options: Any) -> Contestant[Workload]:
    return Contestant(name, role, partial(make, p=BF16_LAST, **options), on=("cuda",))


BENCHMARK = Benchmark(
    name="engines",
    question="How much faster is a targeted PGD-10 as a compiled graph, and in bfloat16?",
    contestants=(
        on_cpu("bare model", "floor", bare),
        on_cpu(EAGER, "fairtat", ours),
        on_cpu("fairtat, compiled", "fairtat", partial(ours, engine="compiled")),
        on_cpu(EAGER_BF16, "fairtat", partial(ours, p=BF16)),
        on_cpu(COMPILED_BF16, "fairtat", partial(ours, p=BF16, engine="compiled")),
        on_cpu("torch.compile of the model", "compile", partial(ours, compile_model=True)),
        on_cpu("torchattacks", "peer", partial(theirs, make=peers.torchattacks)),
        on_gpu(GPU_BARE, "floor", bare),
        on_gpu("fairtat eager", "fairtat", ours),
        on_gpu("fairtat graph", "fairtat", ours, engine="graph"),
        on_gpu("fairtat compiled", "fairtat", ours, engine="compiled"),
        on_gpu("fairtat compiled_graph", "fairtat", ours, engine="compiled_graph"),
        on_gpu("torch.compile of the model, in a graph", "compile", ours, engine="graph", compile_model=True),
    ),
    baseline={"cpu": EAGER, "cuda": GPU_BARE},
    verify=lambda work: as_strong_as(
        work, dict.fromkeys((EAGER_BF16, COMPILED_BF16), LOW_PRECISION), ON_GPU if work.on_gpu else COMPILED_LIKE
    ),
    rule="target loss within 2% of the textbook loop's, bf16 5%; success within half a point or one sample; float32: "
    "at most 2% of pixels off, or three times the share that float64 puts off; on a GPU as in `bench_attack.py`",
    settings=SETTINGS,
    cases=(
        case("PreActResNet-18, 32x3x32x32", "preact_resnet18", (32, 3, 32, 32), rate=5e-4),
        case("MNIST CNN, 256x1x28x28", "mnist_cnn", (256, 1, 28, 28)),
        case("digits CNN, 128x1x8x8", "digits_cnn", (128, 1, 8, 8)),
        case("MLP 64-128-10, 128x1x8x8", "mlp", (128, 1, 8, 8), quick=True),
        case(
            "PreActResNet-18 and PGD-10, 128x3x32x32",
            "preact_resnet18",
            (128, 3, 32, 32),
            rate=5e-4,
            device="cuda",
            quick=True,
        ),
    ),
)


def test_engines(case: Case[Workload], compare: Callable[[Case[Workload]], None]) -> None:
    compare(case)
