"""What an epoch of each method costs, as a multiple of adversarial training's on the same network.

    python benchmarks/method_cost.py --json benchmarks/results/method_cost-cpu.json

The methods take turns, epoch by epoch, in one process and with one thread; validation is left out. Times are the
process's own, which other programs do not lengthen. A figure is the
median of the ratios to adversarial training's epoch in the same round. Beside them: FAAL's inner problem, as a share of
a step of FAAL, and a distilling method's epoch over the sum of adversarial training's and the teacher's passes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from harness.records import cpu_model

from fairtat import models
from fairtat.data import Splits, batches, load_splits
from fairtat.fairness import worst_class_weight
from fairtat.training import Trainer, from_dict

NETWORKS: dict[str, dict[str, Any]] = {
    "small CNN": {"name": "digits_cnn", "options": {}},
    "PreActResNet-18 of width 8": {"name": "preact_resnet18", "options": {"width": 8}},
}
_TARGETED = {"fairness": {"targets": "cfps", "margins": "G-rob"}}
METHODS: dict[str, dict[str, Any]] = {
    "at": {},
    "fair-tat": _TARGETED,
    "trades": {"objective": {"name": "trades"}},
    "trix": {
        "objective": {"name": "trades"},
        "fairness": {"targets": "random", "targeted": "easy", "weights": "dafa", "weight_options": {"warmup": 1}},
    },
    "mart": {"objective": {"name": "mart"}},
    "bat": {"objective": {"name": "bat"}},
    "csr": {"objective": {"name": "csr"}},
    "faal": {"objective": {"faal": 0.5}},
    "ard": {"objective": {"name": "ard"}},
    "absld": {"objective": {"name": "absld"}},
    "fair-ard": {"objective": {"name": "ard"}, "fairness": {"weights": "fair_ard"}},
    "awp": {"awp": {"gamma": 0.01}},
    "apgd": {"attack": {"name": "apgd"}},
    "n-fgsm": {"attack": {"steps": 1, "rel_step": 1.0, "noise": 2.0}},
    "n-fgsm, grad_align": {
        "attack": {"steps": 1, "rel_step": 1.0, "noise": 2.0}, "objective": {"grad_align": 0.2},
    },
}  # fmt: skip
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
    if method.get("objective", {}).get("name") in ("ard", "absld"):
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


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return statistics.median(times)


def measure(network: dict[str, Any], rounds: int) -> dict[str, Any]:
    splits = load_splits("digits", val=0.05, test=0.6)
    with tempfile.TemporaryDirectory() as folder:
        trainers = {name: trainer(splits, network, method, Path(folder)) for name, method in METHODS.items()}
    for one in trainers.values():
        epoch(one)  # warms up, and puts the rules of the second epoch in force
    times: dict[str, list[float]] = {name: [] for name in trainers}
    teacher = trainers["at"].model
    passes: list[float] = []
    for _ in range(rounds):
        for name, one in trainers.items():
            times[name].append(epoch(one))
        teacher.eval()
        started = time.process_time()
        with torch.no_grad():
            for batch in batches(splits.train, 128):
                teacher(batch.x)
        passes.append(time.process_time() - started)
        teacher.train()
    ratios = {name: statistics.median(a / b for a, b in zip(t, times["at"], strict=True)) for name, t in times.items()}
    steps = trainers["faal"].steps_per_epoch
    logits, y = torch.randn(128, 10), torch.arange(128) % 10
    inner = median_seconds(lambda: worst_class_weight(logits, y, 0.5), 200)
    over = [t / (a + p) for t, a, p in zip(times["absld"], times["at"], passes, strict=True)]
    return {
        "epoch_over_at": {name: round(ratio, 3) for name, ratio in ratios.items()},
        "trix_over_trades": round(
            statistics.median(a / b for a, b in zip(times["trix"], times["trades"], strict=True)), 3
        ),
        "faal_inner_share_of_step": round(inner * steps / statistics.median(times["faal"]), 4),
        "absld_over_at_and_teacher": round(statistics.median(over), 3),
        "ard_over_at_and_teacher": round(
            statistics.median(t / (a + p) for t, a, p in zip(times["ard"], times["at"], passes, strict=True)), 3
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {
        "date": date.today().isoformat(),
        "cpu": cpu_model(),
        "torch": torch.__version__,
        "threads": 1,
        "rounds": options.rounds,
        "networks": {name: measure(network, options.rounds) for name, network in NETWORKS.items()},
    }
    text = json.dumps(found, indent=1)
    print(text)
    if options.json is not None:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
