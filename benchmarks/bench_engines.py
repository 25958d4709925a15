"""The engines of a whole targeted PGD-10, in float32 and bfloat16, beside torchattacks.

Ratios are to fairtat's eager engine; torchattacks runs the same loop in float32. Compilation comes before timing:
seconds for a small network, half a minute for a ResNet, kept on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from harness import peers
from harness.attacks import BF16, LOW_PRECISION, SETTINGS, Like, Workload, as_strong_as, bare, case, ours, theirs
from harness.case import Benchmark, Case, Contestant

EAGER, EAGER_BF16, COMPILED_BF16 = "fairtat, eager", "fairtat, eager, bf16", "fairtat, compiled, bf16"
COMPILED_LIKE = Like(roundings=3.0)


BENCHMARK = Benchmark(
    name="engines",
    question="How much faster is a targeted PGD-10 as a compiled graph, and in bfloat16?",
    contestants=(
        Contestant("bare model", "floor", bare),
        Contestant(EAGER, "fairtat", ours),
        Contestant("fairtat, compiled", "fairtat", partial(ours, engine="compiled")),
        Contestant(EAGER_BF16, "fairtat", partial(ours, p=BF16)),
        Contestant(COMPILED_BF16, "fairtat", partial(ours, p=BF16, engine="compiled")),
        Contestant("torch.compile of the model", "compile", partial(ours, compile_model=True)),
        Contestant("torchattacks", "peer", partial(theirs, make=peers.torchattacks)),
    ),
    baseline={"cpu": EAGER},
    verify=lambda work: as_strong_as(work, dict.fromkeys((EAGER_BF16, COMPILED_BF16), LOW_PRECISION), COMPILED_LIKE),
    rule="target loss within 2% of the textbook loop's, bf16 5%; success within half a point or one sample; float32: "
    "at most 2% of pixels off, or three times the share that float64 puts off",
    settings=SETTINGS,
    cases=(
        case("PreActResNet-18, 32x3x32x32", "preact_resnet18", (32, 3, 32, 32), rate=5e-4),
        case("MNIST CNN, 256x1x28x28", "mnist_cnn", (256, 1, 28, 28)),
        case("digits CNN, 128x1x8x8", "digits_cnn", (128, 1, 8, 8)),
        case("MLP 64-128-10, 128x1x8x8", "mlp", (128, 1, 8, 8), quick=True),
    ),
)


def test_engines(case: Case[Workload], compare: Callable[[Case[Workload]], None]) -> None:
    compare(case)
