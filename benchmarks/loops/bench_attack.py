"""A whole targeted PGD-10: fairtat beside the bare model, other libraries and the published loop.

The floor is the bare model: K x (forward + gradient to the input) with frozen parameters and a fixed gradient at
the logits, on a GPU as one CUDA graph. Every attack starts at the clean image, with the same radius, step and steps;
its strength stands beside its time: mean loss towards the target, the share that reached it, samples won and lost
against the textbook loop in float32, pixels that differ. Peers that are not installed are left out: pip install
--no-deps -r benchmarks/peers.txt
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from harness import attacks, peers
from harness.attacks import (
    BF16_LAST,
    FP32,
    ON_GPU,
    TF32,
    Like,
    Precision,
    Workload,
    as_strong_as,
    bare,
    case,
    ours,
    theirs,
)
from harness.case import Benchmark, Case, Contestant, Device, Role

BARE, RANDOM_START, ADV_LIB = "bare model", "fairtat, random start", "adv-lib"
GPU_BARE = f"bare model, {BF16_LAST.name}"
# adv-lib returns the last success, not the last step: other images by design, so that only success compares.
LIKES = {
    RANDOM_START: Like(loss=0.1, weaker=math.inf, stronger=math.inf, pixels=1.0),
    ADV_LIB: Like(loss=math.inf, weaker=0.1, stronger=math.inf, pixels=1.0),
}
CPU: tuple[Device, ...] = ("cpu",)
GPU: tuple[Device, ...] = ("cuda",)


def rival(
    name: str, make: Callable[[peers.Problem], peers.Attack], role: Role = "peer", p: Precision = FP32,
    on: tuple[Device, ...] = CPU,
) -> Contestant[Workload]:  # fmt: skip
    return Contestant(name, role, partial(theirs, make=make, p=p), on=on)


def gpu_case(label: str, name: str, batch: int, quick: bool = False) -> Case[Workload]:
    return case(f"{label}, {batch}x3x32x32", name, (batch, 3, 32, 32), rate=5e-4, quick=quick, device="cuda")


BENCHMARK = Benchmark(
    name="attack",
    question="What does a targeted PGD-10 cost beside the model passes that it needs?",
    contestants=(
        Contestant(BARE, "floor", bare, on=CPU),
        Contestant("fairtat", "fairtat", ours, on=CPU),
        Contestant(RANDOM_START, "fairtat", partial(ours, init="uniform"), on=CPU),
        rival("textbook loop", peers.textbook, "eager"),
        rival("published loop", peers.published, "published"),
        rival("torchattacks", peers.torchattacks),
        rival("foolbox", peers.foolbox),
        rival("ART", peers.art),
        rival(ADV_LIB, peers.adv_lib),
        Contestant(GPU_BARE, "floor", partial(bare, p=BF16_LAST), on=GPU),
        Contestant(f"fairtat graph, {BF16_LAST.name}", "fairtat", partial(ours, p=BF16_LAST, engine="graph"), on=GPU),
        Contestant(f"fairtat eager, {BF16_LAST.name}", "fairtat", partial(ours, p=BF16_LAST, engine="eager"), on=GPU),
        rival(f"torchattacks, {BF16_LAST.name}", peers.torchattacks, p=BF16_LAST, on=GPU),
        rival(f"torchattacks, {FP32.name}", peers.torchattacks, on=GPU),
        rival(f"published loop, {TF32.name}", peers.published, "published", TF32, GPU),
    ),
    baseline={"cpu": BARE, "cuda": GPU_BARE},
    verify=lambda work: as_strong_as(work, LIKES, ON_GPU if work.on_gpu else Like()),
    rule="target loss within 2% of the textbook loop's, success within half a point or one sample, at most 2% of pixels"
    " off; on a GPU the loss within 5%, success also within 3 deviations",
    settings=attacks.SETTINGS,
    cases=(
        case("PreActResNet-18, 32x3x32x32", "preact_resnet18", (32, 3, 32, 32), rate=5e-4),
        case("MNIST CNN, 256x1x28x28", "mnist_cnn", (256, 1, 28, 28)),
        case("digits CNN, 128x1x8x8", "digits_cnn", (128, 1, 8, 8), quick=True),
        case("MLP 64-128-10, 128x1x8x8", "mlp", (128, 1, 8, 8)),
        gpu_case("PreActResNet-18", "preact_resnet18", 128, quick=True),
        gpu_case("PreActResNet-18", "preact_resnet18", 512),
        gpu_case("WRN-28-10", "wrn28_10", 128, quick=True),
        gpu_case("ViT-S/4", "timm:vit_small_patch16_224", 128),
    ),
)


def test_attack(case: Case[Workload], compare: Callable[[Case[Workload]], None]) -> None:
    compare(case)
