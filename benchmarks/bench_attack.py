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
from typing import Any

from harness import peers
from harness.attacks import BF16_LAST, EXACT, FP32, SETTINGS, TF32, Like, Workload, as_strong_as, bare, ours, theirs
from harness.case import Benchmark, Case, Contestant, Device

BARE, RANDOM_START, ADV_LIB = "bare model", "fairtat, random start", "adv-lib"
GPU_BARE = f"bare model, {BF16_LAST.name}"
# adv-lib returns the last success, not the last step: other images by design, so that only success compares.
LIKES = {
    RANDOM_START: Like(loss=0.1, weaker=math.inf, stronger=math.inf, pixels=1.0),
    ADV_LIB: Like(loss=math.inf, weaker=0.1, stronger=math.inf, pixels=1.0),
}
RULE = "target loss within {} of the textbook loop's, success within half a point or one sample{}"
PIXELS, DEVIATIONS = ", at most 2% of pixels off", " or 3 deviations"
ON_GPU = Like(loss=0.05, pixels=1.0, sigmas=3.0)  # whatever the precision
CPU: tuple[Device, ...] = ("cpu",)
GPU: tuple[Device, ...] = ("cuda",)


def peer(name: str, make: Callable[[peers.Problem], peers.Attack]) -> Contestant[Workload]:
    return Contestant(name, "peer", partial(theirs, make=make), on=CPU)


def case(
    label: str, name: str, shape: tuple[int, int, int, int], *, rate: float = 5e-3, **about: Any
) -> Case[Workload]:
    return Case(label, lambda settings, seed: Workload(settings, name, shape, rate), headline=True, **about)


def gpu_case(label: str, name: str, batch: int, quick: bool = False) -> Case[Workload]:
    return case(f"{label}, {batch}x3x32x32", name, (batch, 3, 32, 32), rate=5e-4, quick=quick, device="cuda")


BENCHMARK = Benchmark(
    name="attack",
    question="What does a targeted PGD-10 cost beside the model passes that it needs?",
    contestants=(
        Contestant(BARE, "floor", bare, on=CPU),
        Contestant("fairtat", "fairtat", ours, on=CPU),
        Contestant(RANDOM_START, "fairtat", partial(ours, init="uniform"), on=CPU),
        Contestant("textbook loop", "eager", partial(theirs, make=peers.textbook), on=CPU),
        Contestant("published loop", "published", partial(theirs, make=peers.published), on=CPU),
        peer("torchattacks", peers.torchattacks),
        peer("foolbox", peers.foolbox),
        peer("ART", peers.art),
        peer(ADV_LIB, peers.adv_lib),
        Contestant(GPU_BARE, "floor", partial(bare, p=BF16_LAST), on=GPU),
        Contestant(f"fairtat graph, {BF16_LAST.name}", "fairtat", partial(ours, p=BF16_LAST, engine="graph"), on=GPU),
        Contestant(f"fairtat eager, {BF16_LAST.name}", "fairtat", partial(ours, p=BF16_LAST, engine="eager"), on=GPU),
        *(
            Contestant(f"torchattacks, {p.name}", "peer", partial(theirs, make=peers.torchattacks, p=p), on=GPU)
            for p in (BF16_LAST, FP32)
        ),
        Contestant(f"published loop, {TF32.name}", "published", partial(theirs, make=peers.published, p=TF32), on=GPU),
    ),
    baseline={"cpu": BARE, "cuda": GPU_BARE},
    verify=lambda work: as_strong_as(work, LIKES, ON_GPU if work.on_gpu else EXACT),
    rule=lambda work: RULE.format("5%" if work.on_gpu else "2%", DEVIATIONS if work.on_gpu else PIXELS),
    settings=SETTINGS,
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
