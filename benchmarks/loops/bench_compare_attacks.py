"""Targeted PGD in Linf and L2, 10 and 50 steps, on five kinds of network: fairtat beside other libraries and loops.

The floor is the bare model, as in bench_attack. Time, the most memory at a time and the share of targets reached; the
engines are not compiled for the largest network, whose build takes minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from harness import peers
from harness.attacks import (
    BF16,
    L2_EPS,
    L2_STEP,
    LOW_PRECISION,
    SETTINGS,
    Like,
    Workload,
    as_strong_as,
    bare,
    case,
    ours,
    theirs,
)
from harness.case import Benchmark, Case, Contestant, Settings

from fairtat.devices import has_native_bf16

BARE, COMPILED = "bare model", "fairtat, compiled"
EAGER_BF16, COMPILED_BF16 = "fairtat, eager, bf16", "fairtat, compiled, bf16"
COMPILED_BELOW = 20e6  # parameters


def compiles(settings: Settings, work: Workload) -> bool:
    return sum(p.numel() for p in work.model.parameters()) < COMPILED_BELOW


def native_bf16(settings: Settings, work: Workload) -> bool:
    return has_native_bf16(torch.device(work.device))


def linf(settings: Settings, work: Workload) -> bool:
    return work.norm == "linf"


BENCHMARK = Benchmark(
    name="compare_attacks",
    question="What does a targeted PGD cost in other norms, with more steps and on other networks?",
    contestants=(
        Contestant(BARE, "floor", bare),
        Contestant("fairtat, eager", "fairtat", ours),
        Contestant(COMPILED, "fairtat", partial(ours, engine="compiled"), when=compiles),
        Contestant(EAGER_BF16, "fairtat", partial(ours, p=BF16), when=native_bf16),
        Contestant(
            COMPILED_BF16,
            "fairtat",
            partial(ours, p=BF16, engine="compiled"),
            when=lambda s, w: compiles(s, w) and native_bf16(s, w),
        ),
        Contestant("textbook loop (TRADES, DAFA)", "eager", partial(theirs, make=peers.textbook)),
        Contestant("published loop (CFA, FAIR-TAT)", "published", partial(theirs, make=peers.published), when=linf),
        Contestant("torchattacks", "peer", partial(theirs, make=peers.torchattacks)),
        Contestant("foolbox", "peer", partial(theirs, make=peers.foolbox)),
        Contestant("ART", "peer", partial(theirs, make=peers.art)),
        Contestant("cleverhans", "peer", partial(theirs, make=peers.cleverhans)),
        Contestant("adv-lib", "peer", partial(theirs, make=peers.adv_lib), when=linf),
    ),
    baseline={"cpu": BARE},
    verify=lambda work: as_strong_as(
        work,
        {
            **dict.fromkeys((EAGER_BF16, COMPILED_BF16), LOW_PRECISION),
            "adv-lib": Like(loss=float("inf"), weaker=0.1, stronger=float("inf"), pixels=1.0),  # its last success
        },
        Like(roundings=3.0),
    ),
    rule="target loss within 2% of the textbook loop's, bf16 5%; success within half a point or one sample; float32: "
    "at most 2% of pixels, in L2 of images, off, or three times the share that float64 puts off",
    settings={**SETTINGS, "steps": "10 or 50", "l2": {"eps": L2_EPS, "step_size": L2_STEP}},
    memory=True,
    cases=(
        case("MLP, 128x1x8x8, Linf, K=10", "mlp", (128, 1, 8, 8)),
        case("MLP, 128x1x8x8, Linf, K=50", "mlp", (128, 1, 8, 8), steps=50),
        case("MLP, 128x1x8x8, L2, K=10", "mlp", (128, 1, 8, 8), norm="l2", quick=True),
        case("digits CNN, 32x1x8x8, Linf, K=50", "digits_cnn", (32, 1, 8, 8), steps=50),
        case("digits CNN, 32x1x8x8, L2, K=50", "digits_cnn", (32, 1, 8, 8), norm="l2", steps=50),
        case("PreActResNet-18, 4x3x32x32, L2, K=10", "preact_resnet18", (4, 3, 32, 32), rate=5e-4, norm="l2"),
        case("ViT-Ti/4, 4x3x32x32, Linf, K=10", "timm:vit_tiny_patch16_224", (4, 3, 32, 32), rate=5e-4),
        case("WRN-28-10, 2x3x32x32, Linf, K=10", "wrn28_10", (2, 3, 32, 32), rate=5e-4),
    ),
)


def test_compare_attacks(case: Case[Workload], compare: Callable[[Case[Workload]], None]) -> None:
    compare(case)
