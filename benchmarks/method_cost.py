"""What an epoch of each method costs, as a multiple of adversarial training's on the same network.

    python benchmarks/method_cost.py --json benchmarks/results/method_cost-cpu.json

The methods take turns, epoch by epoch, in one process and with one thread; validation is left out. Times are the
process's own, which other programs do not lengthen, and a figure is the median of the ratios to adversarial training's
epoch in the same round. Operations are counted, in convolutions and products of matrices, so they are exact. Beside
them: FAAL's inner problem, as a share of a step of FAAL, and a distilling method's epoch over what it cannot do
without, its base's epoch and the teacher's passes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from harness.records import FORMAT, describe, write_json

from fairtat import models
from fairtat.data import Splits, batches, load_splits
from fairtat.engines.operations import OperationCount
from fairtat.fairness import worst_class_weight
from fairtat.training import Trainer, from_dict

NETWORKS: dict[str, dict[str, Any]] = {
    "small CNN": {"name": "digits_cnn", "options": {}},
    "PreActResNet-18 of width 8": {"name": "preact_resnet18", "options": {"width": 8}},
}
_TARGETED = {"fairness": {"targets": "cfps", "margins": "G-rob"}}
METHODS: dict[str, dict[str, Any]] = {
    "AT": {},
    "FAIR-TAT": _TARGETED,
    "TRADES": {"objective": {"name": "trades"}},
    "TRIX": {
        "objective": {"name": "trades"},
        "fairness": {"targets": "random", "targeted": "easy", "weights": "dafa", "weight_options": {"warmup": 1}},
    },
    "MART": {"objective": {"name": "mart"}},
    "BAT": {"objective": {"name": "bat"}},
    "CSR": {"objective": {"name": "csr"}},
    "FAAL": {"objective": {"faal": 0.5}},
    "ARD": {"objective": {"name": "ard"}},
    "Fair-ARD": {"objective": {"name": "ard"}, "fairness": {"weights": "fair_ard"}},
    "RSLAD": {"objective": {"name": "rslad"}},
    "ABSLD": {"objective": {"name": "absld"}},
    "AT with AWP": {"awp": {"gamma": 0.01}},
    "AT with APGD": {"attack": {"name": "apgd"}},
    "N-FGSM": {"attack": {"steps": 1, "rel_step": 1.0, "noise": 2.0}},
    "N-FGSM with GradAlign": {
        "attack": {"steps": 1, "rel_step": 1.0, "noise": 2.0}, "objective": {"grad_align": 0.2},
    },
}  # fmt: skip
# Distilling methods, and the method that is their base: RSLAD and ABSLD train on clean images as well. The attack of
# TRADES makes a clean pass where theirs asks the teacher.
DISTILLING = {"ARD": "AT", "Fair-ARD": "AT", "RSLAD": "TRADES", "ABSLD": "TRADES"}
BASE: dict[str, Any] = {
    "attack": {"eps": 0.1, "step_size": 0.025, "steps": 10, "engine": "eager"},
    "optim": {"lr": 0.01, "schedule": "constant"},
    "batch_size": 128,
    "epochs": 10_000,
    "device": "cpu",
}


def trainer(splits: Splits, network: dict[str, Any], method: dict[str, Any], folder: Path) -> Trainer:
    values = {**BASE, **method, "model": network, "attack": BASE["attack"] | method.get("attack", {})}
    torch.manual_seed(0)
    model = models.build(network["name"], 10, 1, (8, 8), **network["options"])
    if method.get("objective", {}).get("name") in ("ard", "rslad", "absld"):
        torch.save(model.state_dict(), folder / "teacher.pt")
        values["distill"] = {"weights": str(folder / "teacher.pt")}
    return Trainer(from_dict(values), splits, model)


def epoch(one: Trainer) -> float:
    started = time.process_time()
    for _ in one.train_steps():
        pass
    one.fair.end_epoch()
    seconds = time.process_time() - started
    one.epoch += 1
    return seconds


def counted(work: Callable[[], object]) -> int:
    """The operations of some work."""
    count = OperationCount()
    with count:
        work()
    return count.total


def clean_passes(one: Trainer) -> float:
    """One pass of every training image, as a teacher's."""
    model = one.model.eval()
    started = time.process_time()
    with torch.no_grad():
        for batch in batches(one.splits.train, one.config.batch_size):
            model(batch.x)
    seconds = time.process_time() - started
    model.train()
    return seconds


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return statistics.median(times)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of the rounds' ratios."""
    return round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 3)


def measure(network: dict[str, Any], rounds: int, *, train: float = 0.35) -> dict[str, Any]:
    """The costs on one network, with this share of the digits as training images."""
    splits = load_splits("digits", val=0.05, test=0.95 - train)
    with tempfile.TemporaryDirectory() as folder:
        trainers = {name: trainer(splits, network, method, Path(folder)) for name, method in METHODS.items()}
    for one in trainers.values():
        epoch(one)  # warms up, and puts the rules of the second epoch in force
    operations: dict[str, Sequence[float]] = {name: [counted(partial(epoch, one))] for name, one in trainers.items()}
    passed: Sequence[float] = [counted(partial(clean_passes, trainers["AT"]))]
    times: dict[str, list[float]] = {name: [] for name in trainers}
    passes = []
    for _ in range(rounds):
        for name, one in trainers.items():
            times[name].append(epoch(one))
        passes.append(clean_passes(trainers["AT"]))
    logits, y = torch.randn(128, 10), torch.arange(128) % 10
    inner = median_seconds(lambda: worst_class_weight(logits, y, 0.5), 200) * trainers["FAAL"].steps_per_epoch
    return {
        "over_at": {
            name: {"operations": ratio(operations[name], operations["AT"]), "time": ratio(times[name], times["AT"])}
            for name in METHODS
        },
        "over_base_and_teacher": {
            name: {
                "base": base,
                "operations": ratio(operations[name], _with_teacher(base, operations[base], passed)),
                "time": ratio(times[name], _with_teacher(base, times[base], passes)),
            }
            for name, base in DISTILLING.items()
        },
        "trix_over_trades": {
            "operations": ratio(operations["TRIX"], operations["TRADES"]),
            "time": ratio(times["TRIX"], times["TRADES"]),
        },
        "faal_inner_share_of_step": round(inner / statistics.median(times["FAAL"]), 4),
    }


def _with_teacher(base: str, costs: Sequence[float], passes: Sequence[float]) -> Sequence[float]:
    """Of each round, the cost of the base and the teacher's passes, in the place of clean ones if the base has them."""
    return costs if base == "TRADES" else [cost + one for cost, one in zip(costs, passes, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {
        "format": FORMAT,
        "benchmark": "method_cost",
        "device": "cpu",
        "quick": options.rounds < 3,
        "environment": describe("cpu"),
        "settings": {"rounds": options.rounds},
        "networks": {name: measure(network, options.rounds) for name, network in NETWORKS.items()},
    }
    print(json.dumps(found, indent=1))
    if options.json is not None:
        write_json(options.json, found)


if __name__ == "__main__":
    main()
