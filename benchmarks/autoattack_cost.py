"""What AutoAttack's standard version costs: fairtat's on each engine, the authors' code, and pyautoattack.

    AUTOATTACK=CLONE python benchmarks/autoattack_cost.py [CASE...] --verified verified.npz --json RESULT.json

CLONE is a clone of github.com/fra31/auto-attack; without one, or without pyautoattack, that contestant is left out. All
attack the same images in one process and with one thread, and take turns. A case may be cut short: then everyone makes
that share of the steps and queries. The first turn, which compiles, is not timed:
it shows that an image that counts as fooled is misclassified by the model in float32 and inside the ball, and that no
contestant leaves more images than the first one and a band of 2% of them, or one image. Times are the process's own,
which other programs do not lengthen.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
import verified
from harness import records
from harness.attacks import Workload, no_fallback
from harness.case import Settings, Unavailable
from harness.equality import Mismatch, in_ball
from harness.runner import Measurement
from torch import Tensor, nn

import fairtat
from fairtat import models
from fairtat.attacks.autoattack.suite import STAGES
from fairtat.data import ImageData, load_splits

Attack = Callable[["Case"], Tensor]
CLONE = "AUTOATTACK"  # the environment variable


@dataclass(frozen=True)
class Case:
    """A trained network, and images of which some resist."""

    model: nn.Module
    x: Tensor  # (N, C, H, W)
    y: Tensor  # (N,)
    eps: float
    share: float  # of the steps and queries of the standard version

    def robust(self, x_adv: Tensor) -> Tensor:
        """(N,) bool: still right, in float32; all points must be in the ball."""
        in_ball(x_adv, self.x, self.eps)
        with torch.no_grad():
            right: Tensor = self.model(x_adv).argmax(1) == self.y
        return right


def digits(n: int, eps: float, share: float, file: Path | None) -> Case:
    """A small CNN after 15 epochs of adversarial training on scikit-learn's digits."""
    splits = load_splits("digits")
    parts = (cast(ImageData, part) for part in (splits.train, splits.test))
    (x, y), (images, labels) = ((part.floats(part.images), part.labels) for part in parts)
    torch.manual_seed(0)
    model = models.build("digits_cnn", 10, 1, (8, 8))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(15):
        for rows in torch.randperm(len(x)).split(128):
            x_adv = fairtat.fast_pgd(model, x[rows], y[rows], eps=eps, step_size=eps / 3, steps=5, engine="eager")
            optimizer.zero_grad()
            F.cross_entropy(model(x_adv), y[rows]).backward()
            optimizer.step()
    return Case(model.eval(), images[:n], labels[:n], eps, share)


def resnet(n: int, eps: float, share: float, file: Path | None) -> Case:
    """A robust network of others, on images of which most are proved robust at half of this radius."""
    if file is None:
        raise Unavailable("--verified names no file of make_verified.py")
    given = verified.load(file, "cifar_resnet_2b")
    return Case(given.model, given.x[:n], given.y[:n], eps, share)


def preact(n: int, eps: float, share: float, file: Path | None) -> Case:
    """A network that has seen its images 20 times; its own predictions are the labels."""
    work = Workload(Settings(), "preact_resnet18", (n, 3, 32, 32), rate=5e-4)
    return Case(work.model, work.x, work.logits(work.x).argmax(1), eps, share)


CASES: dict[str, Callable[[Path | None], Case]] = {
    "digits CNN, 48x1x8x8": partial(digits, 48, 0.15, 1.0),
    "cifar_resnet_2b, 24x3x32x32": partial(resnet, 24, 4 / 255, 1.0),
    "PreActResNet-18, 8x3x32x32, 5% of the steps": partial(preact, 8, 0.5 / 255, 0.05),
}


def ours(case: Case, **options: Any) -> Tensor:
    stages = [(name, _shortened(stage, case.share)) for name, stage in STAGES["standard"].items()]
    options |= {"version": "custom", "attacks": stages, "chunk_size": len(case.x)}
    with no_fallback():
        return fairtat.autoattack(case.model, case.x, case.y, eps=case.eps, **options)[0]


def _shortened(attack: Any, share: float) -> Any:
    """An attack of any package with a share of its steps or queries: ours as another object, theirs in place."""
    number = "n_queries" if hasattr(attack, "n_queries") else "n_iter"
    changed = {number: round(share * getattr(attack, number))}
    if is_dataclass(attack):
        return replace(cast(Any, attack), **changed)
    vars(attack).update(changed)
    return attack


def theirs(case: Case, package: str, **options: Any) -> Tensor:
    clone = os.environ.get(CLONE)
    if package == "autoattack" and not clone:
        raise Unavailable(f"{CLONE} names no clone of github.com/fra31/auto-attack")
    if clone and clone not in sys.path:
        sys.path.append(clone)
    try:
        attack = importlib.import_module(package).AutoAttack(
            case.model, norm="Linf", eps=case.eps, seed=0, version="standard", device="cpu", **options
        )
    except ModuleNotFoundError as error:
        raise Unavailable(f"not installed: {error.name}") from error
    attack.verbose = False
    for each in (attack.apgd, attack.apgd_targeted, attack.fab, attack.square):
        _shortened(each, case.share)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = attack.run_standard_evaluation(case.x, case.y)  # in batches of 250
    x_adv: Tensor = found if isinstance(found, Tensor) else found[0]  # pyautoattack returns predictions as well
    return x_adv


ORIGINAL = "the original"
CONTESTANTS: dict[str, tuple[str, Attack]] = {
    ORIGINAL: ("published", partial(theirs, package="autoattack", verbose=False)),
    "pyautoattack": ("peer", partial(theirs, package="pyautoattack")),
    "fairtat, eager": ("fairtat", partial(ours, engine="eager")),
    "fairtat, compiled": ("fairtat", partial(ours, engine="compiled")),
    "fairtat, compiled, bf16": ("fairtat", partial(ours, engine="compiled", amp=torch.bfloat16)),
}


def clocks() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()


def measured(case: Case, rounds: int) -> dict[str, Any]:
    """A row for each contestant: verdicts from its first turn, then its times.

    Raises:
        Mismatch: a point leaves the ball, or a contestant leaves more images than the band allows.
    """
    rows: dict[str, dict[str, Any]] = {}
    # A model of its own for each: what engines keep of a model is limited.
    given = {name: replace(case, model=copy.deepcopy(case.model)) for name in CONTESTANTS}
    for name, (role, attack) in CONTESTANTS.items():
        begin = clocks()
        try:
            left = int(case.robust(attack(given[name])).sum())
        except Unavailable as missing:
            rows[name] = {"name": name, "role": role, "missing": str(missing)}
            continue
        first = [b - a for a, b in zip(begin, clocks(), strict=True)]
        rows[name] = {"name": name, "role": role, "left": left, "robust": left / len(case.x), "first": first}
        print(f"  {name}: {left} of {len(case.x)} left; {first[0]:.1f} s, {first[1]:.1f} s by the wall", flush=True)
    running = [name for name, row in rows.items() if "left" in row]
    baseline = running[0]
    for name in running:
        if rows[name]["left"] > rows[baseline]["left"] + max(1, 0.02 * len(case.x)):
            raise Mismatch(f"{name} leaves {rows[name]['left']} images, {baseline} {rows[baseline]['left']}")
    taken: tuple[dict[str, list[float]], ...] = tuple({name: [] for name in running} for _ in range(2))
    for number in range(rounds):
        for name in running if number % 2 == 0 else reversed(running):
            begin = clocks()
            CONTESTANTS[name][1](given[name])
            for kind, a, b in zip(taken, begin, clocks(), strict=True):
                kind[name].append(b - a)
    own, wall = (Measurement(seconds, dict.fromkeys(running, 1)) for seconds in taken)
    for name in running:
        rows[name] |= own.row(name, baseline) | {"wall_ratio": wall.row(name, baseline)["ratio"]}
    return {"baseline": baseline, "rounds": rounds, "contestants": list(rows.values())}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = "; ".join(CASES).replace("%", "%%")
    parser.add_argument("case", nargs="*", help=f"how its name begins; default all of {names}")
    parser.add_argument("--verified", type=Path, metavar="FILE.npz")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "format": records.FORMAT, "benchmark": "autoattack", "device": "cpu", "quick": False, "cases": [],
        "question": "What does AutoAttack's standard version cost?", "environment": records.describe("cpu"),
        "settings": {"version": "standard", "clock": "process time, one thread"},
    }  # fmt: skip
    for name, make in CASES.items():
        if arguments.case and not name.startswith(tuple(arguments.case)):
            continue
        print(name, flush=True)
        try:
            case = make(arguments.verified)
        except Unavailable as missing:
            print(f"  left out: {missing}")
            continue
        result["cases"].append({"name": name, "headline": True, **measured(case, arguments.rounds)})
        for row in result["cases"][-1]["contestants"]:
            print(f"  {row['name']}: {row.get('missing') or row['ratio']}", flush=True)
        if arguments.json:
            records.write_json(arguments.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
