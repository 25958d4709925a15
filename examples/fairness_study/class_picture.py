"""Which class pays: accuracy of two arms of a study, with an image of each class under its bar.

    python class_picture.py gtsrb32.yaml data/gtsrb32-named/test gtsrb32.png

The results file lies beside the study's file. Bars are means over seeds; a line spans the lowest to the highest seed.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from PIL import Image

from fairtat.errors import UserError
from fairtat.files import write_atomic
from fairtat.study import Results, load_study

NAMED = 4
"""Classes of lowest robust accuracy whose names stand in the picture."""


def accuracies(results: Results, arm: str, factor: float, condition: str) -> np.ndarray:
    """(seeds, classes) accuracy in %."""
    labels, classes = results.labels, len(results.class_names)
    n = np.bincount(labels, minlength=classes)
    found = [
        np.bincount(labels, entry.correct[condition], minlength=classes) / n
        for entry in results.entries()
        if (entry.arm, entry.factor) == (arm, factor)
    ]
    if not found:
        raise UserError(f"{results.path}: holds no model of arm {arm!r} at factor {factor:g}")
    return 100 * np.stack(found)


def draw(results: Results, images: Path, factor: float) -> bytes:
    """The picture, as PNG."""
    contrast = results.study.contrasts[0]
    titles = {each.name: each.title for each in results.study.arms}
    base, other = contrast.against, contrast.arm
    robust = accuracies(results, base, factor, "robust")
    order = np.argsort(robust.mean(0), kind="stable")
    figure = Figure(figsize=(15, 4.6), dpi=110, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    where = np.arange(len(order))
    for condition, color in (("clean", "#d9d9d9"), ("robust", "#555555")):
        mean = accuracies(results, base, factor, condition).mean(0)[order]
        axes.bar(where, mean, width=0.8, color=color, label=f"{titles[base]}, {condition}")
    axes.vlines(where, robust.min(0)[order], robust.max(0)[order], color="black", linewidth=1)
    theirs = accuracies(results, other, factor, "robust")
    axes.plot(where, theirs.mean(0)[order], "o", color="#0072B2", markersize=6, label=f"{titles[other]}, robust")
    axes.vlines(where, theirs.min(0)[order], theirs.max(0)[order], color="#0072B2", linewidth=1)
    _images_below(axes, images, [results.class_names[k] for k in order])
    axes.set(xlim=(-0.7, len(order) - 0.3), ylim=(0, 100), ylabel="accuracy of a class, %", xticks=[])
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, frameon=False)
    lowest = ", ".join(f"{results.class_names[k]} {robust.mean(0)[k]:.0f}%" for k in order[:NAMED])
    axes.set_title(f"lowest: {lowest}", loc="left", fontsize=10)
    judge = results.study.judge
    seeds = f"{len(robust)} seeds" if len(robust) > 1 else "one seed"
    figure.suptitle(
        f"{results.study.title}: every class, robust against {judge.attacks[0]} at {judge.eps}, {seeds}",
        x=0.01, ha="left", fontsize=11,
    )  # fmt: skip
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _images_below(axes: Axes, images: Path, names: list[str]) -> None:
    for rank, name in enumerate(names):
        file = _clearest(images / name)
        picture = np.asarray(Image.open(file).convert("RGB"))
        box = OffsetImage(picture, zoom=0.75 * 32 / picture.shape[0], interpolation="bilinear")
        axes.add_artist(
            AnnotationBbox(box, (rank, 0), (0, -16), boxcoords="offset points", frameon=False, annotation_clip=False)
        )


def _clearest(folder: Path) -> Path:
    """The image with the most contrast that is neither dark nor pale."""
    files = sorted(folder.iterdir())
    if not files:
        raise UserError(f"{folder}: holds no image")

    def score(file: Path) -> float:
        gray = np.asarray(Image.open(file).convert("L"), dtype=float)
        return float(gray.std() - abs(gray.mean() - 120))

    return max(files, key=score)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("images", type=Path, help="folder with a folder of images per class")
    parser.add_argument("output", type=Path, help="PNG file")
    parser.add_argument("--results", type=Path, help="by default STUDY-results.json")
    parser.add_argument("--factor", type=float, default=1.0, help="multiple of the radius (default: %(default)s)")
    options = parser.parse_args()
    path = options.results or options.study.with_name(f"{options.study.stem}-results.json")
    picture = draw(Results(load_study(options.study), path), options.images, options.factor)
    write_atomic(options.output, lambda stream: stream.write(picture))


if __name__ == "__main__":
    main()
