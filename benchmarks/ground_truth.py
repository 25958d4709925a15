"""AutoAttack on networks whose robustness is known image by image, and PGD on those whose accuracy is published.

    python benchmarks/ground_truth.py verified.npz [NETWORK...] [--engine compiled] [--amp bfloat16] [--seed 0]
    python benchmarks/ground_truth.py verified.npz --images IMAGES.npz [NETWORK...] [--every 1]

make_verified.py makes verified.npz: networks and questions (image, label, Linf radius) of the International
Verification of Neural Networks Competition, each with the answer of the sound tools: proved robust, known to have an
adversarial example, or open. An attack that fools a proved image is wrong; one that misses a known example is weaker
than it could be. The table counts both; every example is judged in float32, inside the ball to one rounding.

By default: APGD-CE with 5 restarts and APGD-T; on networks whose activations are signs, which have no gradients, APGD
on the margin with straight-through gradients, and Square with 3 restarts.

With --images, a file of CIFAR-10's test images (images (N, 32, 32, 3) uint8, labels (N,)): the share of them that
PGD-100 with 5 restarts leaves right, beside the share that the networks' authors published. --out keeps the figures in
a JSON file, which is written after each network and radius.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import verified
from harness import records
from torch import Tensor, nn
from verified import KNOWN, OPEN, PROVED

import fairtat
from fairtat.attacks.autoattack import APGD, Square
from fairtat.attacks.autoattack.stages import Stage

SMOOTH: list[tuple[str, Stage]] = [("apgd-ce", APGD("ce", n_restarts=5)), ("apgd-t", APGD("dlr-targeted"))]
# Percent right: of the images as they are, and by radius x 255 under PGD-100 with 5 restarts (VNN-COMP 2021, resnet).
PUBLISHED: dict[str, dict[int, float]] = {
    "cifar_resnet_2b": {0: 69.25, 1: 62.24, 2: 54.82},
    "cifar_resnet_4b": {0: 77.20, 1: 69.75, 2: 61.41},
}
STEPS, RESTARTS = 100, 5
SIGNS: list[tuple[str, Stage]] = [("apgd-margin", APGD("margin", n_restarts=5)), ("square", Square(n_restarts=3))]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="verified.npz")
    parser.add_argument("network", nargs="*")
    parser.add_argument("--version", help="a version of AutoAttack in place of the default attacks")
    parser.add_argument("--engine", default="eager")
    parser.add_argument("--amp", choices=("bfloat16", "float16"), help="the precision of the search")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=Path, metavar="FILE.npz", help="measure accuracies, on these images")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="of the images, take every N-th")
    parser.add_argument("--chunk", type=int, default=250, help="images in one pass")
    parser.add_argument("--out", type=Path, metavar="FILE.json")
    arguments = parser.parse_args(argv)
    known = verified.names(arguments.file)
    if arguments.images is not None:
        known = [name for name in PUBLISHED if name in known]
    if unknown := [name for name in arguments.network if name not in known]:
        parser.error(f"no network {unknown[0]!r}: one of {', '.join(known)}")
    if arguments.every < 1:
        parser.error(f"--every must be at least 1, got {arguments.every}")
    arguments.network = arguments.network or known
    return (_questions if arguments.images is None else _accuracies)(arguments)


def _questions(arguments: argparse.Namespace) -> int:
    print("| network | proved | of them fooled | known | of them found | open | of them found | found by | seconds |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    amp = getattr(torch, arguments.amp) if arguments.amp else None
    kept = _Kept(arguments, ("engine", "amp", "seed", "version"))
    wrong = 0
    for name in arguments.network:
        options = {"engine": arguments.engine, "seed": arguments.seed, "amp": amp, "chunk_size": arguments.chunk}
        row = _judge(name, verified.load(arguments.file, name), arguments.version, options)
        kept.add(row)
        wrong += row["proved_fooled"]
        counts = [str(row[f"{a}{b}"]) for a in ("proved", "known", "open") for b in ("", "_fooled")]
        by = ", ".join(f"{attack} {count}" for attack, count in row["found_by"].items()) or "-"
        print("| " + " | ".join([name, *counts, by, f"{row['seconds']:.0f}"]) + " |", flush=True)
    return 1 if wrong else 0


class _Kept:
    """The rows so far, in a file if one is asked for."""

    def __init__(self, arguments: argparse.Namespace, settings: tuple[str, ...]) -> None:
        self.path: Path | None = arguments.out
        self.rows: list[dict[str, Any]] = []
        self.about = {name: getattr(arguments, name) for name in settings}

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        if self.path is not None:
            value = {"format": records.FORMAT, "settings": self.about, "rows": self.rows}
            records.write_json(self.path, value | {"environment": records.describe("cpu")})


def _accuracies(arguments: argparse.Namespace) -> int:
    try:
        with np.load(arguments.images) as file:
            images, labels = file["images"][:: arguments.every], file["labels"][:: arguments.every]
    except (OSError, ValueError, KeyError) as error:
        raise SystemExit(
            f"{arguments.images} must hold images (N, 32, 32, 3) uint8 and labels (N,): {error}"
        ) from error
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() / 255
    y = torch.from_numpy(labels).long()
    kept = _Kept(arguments, ("engine", "seed", "every"))
    print(f"| network | radius x 255 | images | published | PGD-{STEPS}, {RESTARTS} restarts | seconds |")
    print("|---|---|---|---|---|---|", flush=True)
    for name in arguments.network:
        model = verified.load(arguments.file, name).model
        for radius, published in PUBLISHED[name].items():
            begin = time.perf_counter()
            right = _still_right(model, x, y, radius / 255, arguments)
            share, seconds = 100 * right / len(x), time.perf_counter() - begin
            row = {"network": name, "radius": radius, "images": len(x), "right": right, "published": published}
            kept.add(row | {"percent": share, "seconds": seconds})
            print(f"| {name} | {radius} | {len(x)} | {published} | {share:.2f} | {seconds:.0f} |", flush=True)
    return 0


def _still_right(model: nn.Module, x: Tensor, y: Tensor, eps: float, arguments: argparse.Namespace) -> int:
    """How many images stay right in each of the restarts; one that has fallen is not attacked again."""
    left = torch.arange(len(x))
    for restart in range(RESTARTS + 1 if eps else 1):  # at first the images as they are
        stays = []
        for rows in left.split(arguments.chunk):
            x_adv = x[rows]
            if restart:
                x_adv = fairtat.fast_pgd(
                    model, x[rows], y[rows], eps=eps, step_size=eps / 4, steps=STEPS, sample_ids=rows,
                    seed=arguments.seed + restart, engine=arguments.engine,
                )  # fmt: skip
            with torch.no_grad():
                stays.append(rows[model(x_adv).argmax(1) == y[rows]])
        left = torch.cat(stays) if stays else left
    return len(left)


def _judge(name: str, question: verified.Instance, version: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """The network's row."""
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
    row: dict[str, Any] = {"network": name, "seconds": seconds}
    for answer, word in ((PROVED, "proved"), (KNOWN, "known"), (OPEN, "open")):
        asked = question.verdict == answer
        row |= {word: int(asked.sum()), f"{word}_fooled": int((asked & fooled).sum())}
    by = {attack: int((flags.found_by == k).sum()) for k, attack in enumerate(flags.attacks)}
    return row | {"found_by": {attack: count for attack, count in by.items() if count}}


if __name__ == "__main__":
    sys.exit(main())
