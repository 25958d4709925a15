"""AutoAttack on networks whose robustness is known image by image.

    python benchmarks/ground_truth.py FOLDER [NETWORK...] [--engine compiled] [--seed 0]

FOLDER holds verified.npz and verified.py: networks and questions (image, label, Linf radius) of the International
Verification of Neural Networks Competition, each with the answer of the sound tools: proved robust, known to have an
adversarial example, or open. An attack that fools a proved image is wrong; one that misses a known example is weaker
than it could be. The table counts both; every example is judged in float32, inside the ball to one rounding.

By default: APGD-CE with 5 restarts and APGD-T; on networks whose activations are signs, which have no gradients, APGD
on the margin with straight-through gradients, and Square with 3 restarts.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

import fairtat
from fairtat.attacks.autoattack import APGD, Square
from fairtat.attacks.autoattack.stages import Stage

PROVED, KNOWN, OPEN = 1, -1, 0
SMOOTH: list[tuple[str, Stage]] = [("apgd-ce", APGD("ce", n_restarts=5)), ("apgd-t", APGD("dlr-targeted"))]
SIGNS: list[tuple[str, Stage]] = [("apgd-margin", APGD("margin", n_restarts=5)), ("square", Square(n_restarts=3))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("network", nargs="*")
    parser.add_argument("--version", help="a version of AutoAttack in place of the default attacks")
    parser.add_argument("--engine", default="eager")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    verified = _module(arguments.folder / "verified.py")
    print("| network | proved | of them fooled | known | of them found | open | of them found | found by | seconds |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    wrong = 0
    for name in arguments.network or verified.names():
        options = {"engine": arguments.engine, "seed": arguments.seed}
        wrong += _judge(name, verified.load(name), arguments.version, options)
    return 1 if wrong else 0


def _judge(name: str, question: Any, version: str | None, options: dict[str, Any]) -> int:
    """Print the network's row; the number of proved images that were fooled."""
    model, x, y, eps = question.model, question.x, question.y, question.eps
    target = question.target if bool((question.target >= 0).all()) else None
    signs = any(step[0] == "Sign" for step in getattr(model, "steps", ()))
    options |= {"eps": eps, "target": target, "gradient": "ste" if signs else "autograd"}
    options |= {"version": version} if version else {"version": "custom", "attacks": SIGNS if signs else SMOOTH}
    begin = time.perf_counter()
    x_adv, flags = fairtat.autoattack(model, x, y, **options)
    seconds = time.perf_counter() - begin
    with torch.no_grad():
        pred = model(x_adv).argmax(1)
    fooled = pred != y if target is None else pred == target
    inside = (x_adv - x).flatten(1).abs().amax(1) <= eps + 2**-24
    inside &= ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(1)
    fooled &= inside
    if not bool(inside.all()) or not torch.equal(fooled, ~flags.robust):
        raise AssertionError(f"{name}: the suite's verdicts are not those of the model on its images")
    cells = [name]
    for answer in (PROVED, KNOWN, OPEN):
        asked = question.verdict == answer
        cells += [str(int(asked.sum())), str(int((asked & fooled).sum()))]
    by = [(attack, int((flags.found_by == k).sum())) for k, attack in enumerate(flags.attacks)]
    cells += [", ".join(f"{attack} {count}" for attack, count in by if count) or "-", f"{seconds:.0f}"]
    print("| " + " | ".join(cells) + " |", flush=True)
    return int(((question.verdict == PROVED) & fooled).sum())


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("verified", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise SystemExit(f"there is no {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules["verified"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sys.exit(main())
