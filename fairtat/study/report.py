"""A study's report, from its results file and nothing else: Markdown, one HTML page, CSV and a picture."""

from __future__ import annotations

import base64
import csv
import html
import io
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fairtat.errors import UserError
from fairtat.evaluation.metrics.bootstrap import FIGURES
from fairtat.files import write_atomic
from fairtat.optional import optional_import
from fairtat.study.contrasts import Outcome, contrast_outcomes, curve_bands
from fairtat.study.judge import CORRUPTED
from fairtat.study.plan import EQUAL, Arm, Study
from fairtat.study.results import Entry, Results, class_accuracies

__all__ = ["Table", "contrasts_table", "sentence", "write_report"]

# Okabe and Ito's palette, then shapes: no two arms share both.
COLORS = ("#555555", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
SHAPES = ("o", "s", "^", "D", "P", "X", "v", "*")
_OF_TRAINING = ("class_radius", "targets")  # values per class that are kept of each model
MEASURES = (("clean", "average"), ("clean", "worst"), ("robust", "average"), ("robust", "worst"), ("robust", "std"))


class Table(NamedTuple):
    """A table of texts; the first column is flush left."""

    title: str
    head: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


def write_report(results: Results, folder: Path) -> list[Path]:
    """Write report.md, report.html, cells.csv, training.csv and curves.png; returns their paths.

    Raises:
        UserError: the results hold no model, or matplotlib is missing.
    """
    entries = results.entries()
    if not entries:
        raise UserError(f"{results.path}: holds no model yet; `fairtat study run {results.study.path}` makes them")
    outcomes = contrast_outcomes(results)
    tables = [
        _models(results, entries),
        _conditions(results, entries),
        _training(results, entries),
        contrasts_table(results.study, outcomes),
    ]
    sentences = [sentence(results.study, outcome, number) for number, outcome in enumerate(outcomes)]
    picture = _picture(results, entries)
    origin = _origin(results, entries)
    folder.mkdir(parents=True, exist_ok=True)
    written = {
        "report.md": _markdown(results.study, tables, sentences, origin).encode(),
        "report.html": _page(results.study, tables, sentences, origin, picture).encode(),
        "cells.csv": _csv(results, entries).encode(),
        "training.csv": _training_csv(results, entries).encode(),
        "curves.png": picture,
    }
    for name, content in written.items():
        write_atomic(folder / name, lambda stream, content=content: stream.write(content))  # type: ignore[misc]
    return [folder / name for name in written]


def figures_of(
    results: Results, entry: Entry, measures: Sequence[tuple[str, str]] = MEASURES
) -> dict[tuple[str, str], float]:
    """Figures (condition, measure) in points."""
    labels, classes = results.labels, len(results.class_names)
    share = np.bincount(labels, minlength=classes) / len(labels)
    found = {}
    for condition, measure in measures:
        accuracy = class_accuracies(entry.correct[condition], labels, classes)[None]
        found[condition, measure] = 100 * float(FIGURES[measure](accuracy, share)[0])
    return found


def sentence(study: Study, outcome: Outcome, number: int, held: str | None = None) -> str:
    """What a contrast says, for a reader in a hurry; ``held`` says in other words what it holds fixed."""
    contrast = outcome.contrast
    titles = {arm.name: arm.title for arm in study.arms}
    kind = "Primary" if number == 0 else "Secondary"
    pair = f"{titles[contrast.arm]} less {titles[contrast.against]}"
    what = f"{kind}: {pair} in {contrast.figure}, {held or EQUAL[contrast.equal]}"
    if outcome.difference is None or outcome.interval is None:
        return f"{what}: no answer, because {outcome.why_not}."
    low, high = outcome.interval
    verdict = "a difference" if outcome.clear else "no difference that stands after Holm's correction"
    if not outcome.clear and outcome.equivalent:
        verdict += f", and equivalent within {study.margin:g} points"
    seeds = f"{outcome.seeds} seeds" if outcome.seeds > 1 else "1 seed, so the interval covers the images alone"
    return f"{what}: {outcome.difference:+.1f} points [{low:+.1f}, {high:+.1f}] ({seeds}): {verdict}."


def _groups(results: Results, entries: Sequence[Entry]) -> Iterator[tuple[Arm, float, list[Entry]]]:
    """The models of each arm and factor."""
    for arm in results.study.arms:
        for factor in arm.factors:
            group = [entry for entry in entries if (entry.arm, entry.factor) == (arm.name, factor)]
            if group:
                yield arm, factor, group


def _conditions(results: Results, entries: Sequence[Entry]) -> Table:
    """Average and worst fifth under every condition but single corruptions, which cells.csv has."""
    judge = results.study.judge
    names = [name for name in judge.conditions if name not in ("clean", "robust", *judge.corrupted)]
    rows = []
    for arm, factor, group in _groups(results, entries):
        cells = []
        for name in names:
            measures = [(name, "average"), (name, "worst_fifth")]
            judged = [figures_of(results, entry, measures) for entry in group if name in entry.correct]
            means = [statistics.fmean(each[measure] for each in judged) for measure in measures if judged]
            cells.append(" / ".join(f"{mean:.1f}" for mean in means) or "-")
        rows.append((arm.title, f"{factor:g}", *cells))
    return Table("Average / worst fifth of the classes in %, mean over seeds", ("arm", "factor", *names), rows)


def _models(results: Results, entries: Sequence[Entry]) -> Table:
    head = ("arm", "factor", "seeds", "radius", *(" ".join(each) for each in MEASURES), "training, s")
    rows = []
    for arm, factor, group in _groups(results, entries):
        figures = [figures_of(results, entry) for entry in group]
        cells = [_spread([each[measure] for each in figures]) for measure in MEASURES]
        radius = statistics.fmean(entry.radius for entry in group)
        seconds = _spread([entry.values["seconds"] for entry in group], ".0f")
        rows.append((arm.title, f"{factor:g}", str(len(group)), f"{radius:.4g}", *cells, seconds))
    return Table("Accuracy on test images in %, mean ± standard deviation over seeds", head, rows)


def _training(results: Results, entries: Sequence[Entry]) -> Table:
    """Radii and targets of the last epoch, and the cost of a step that does not depend on the machine."""
    rows = []
    for arm, factor, group in _groups(results, entries):
        radii, targets = (_class_means(group, key) for key in _OF_TRAINING)
        passes = results.passes_of(arm.name)
        if radii is None and passes is None:
            continue
        cells = [*_extremes(radii, results.class_names), *_extremes(targets, results.class_names)]
        rows.append((arm.title, f"{factor:g}", *cells, "-" if passes is None else f"{passes:.1f}"))
    head = ("arm", "factor", "smallest radius", "largest", "rarest target", "likeliest", "passes")
    return Table("Radii and shares of targets in the last epoch, mean over seeds; passes forward per image", head, rows)


def _extremes(values: np.ndarray | None, names: Sequence[str]) -> tuple[str, str]:
    """The smallest and the largest of a value per class, each with the name of its class if they differ."""
    if values is None or np.isnan(values).all():
        return "-", "-"
    if np.nanmin(values) == np.nanmax(values):
        return (f"{np.nanmin(values):.3g}",) * 2
    low, high = (f"{values[k]:.3g} ({names[k]})" for k in (int(np.nanargmin(values)), int(np.nanargmax(values))))
    return low, high


def _class_means(group: Sequence[Entry], key: str) -> np.ndarray | None:
    """(C,) over the models that have values."""
    values = [entry.values[key] for entry in group if entry.values.get(key) is not None]
    return np.asarray(np.mean(np.asarray(values, np.float64), axis=0)) if values else None


def contrasts_table(study: Study, outcomes: Sequence[Outcome]) -> Table:
    """A row for each contrast: its difference, corrected p-value and whether it is equivalence."""
    titles = {arm.name: arm.title for arm in study.arms}
    rows = []
    for number, outcome in enumerate(outcomes):
        contrast = outcome.contrast
        names = ("primary" if number == 0 else str(number), titles[contrast.arm], titles[contrast.against])
        if outcome.difference is None or outcome.interval is None:
            values = ("-", "-", "-", "-", outcome.why_not or "-")
        else:
            low, high = outcome.interval
            values = (
                f"{outcome.difference:+.1f} [{low:+.1f}, {high:+.1f}]",
                f"{outcome.p_value:.3f}",
                f"{outcome.holm:.3f}",
                "yes" if outcome.equivalent else "no",
                f"{outcome.seeds}",
            )
        rows.append((*names, contrast.figure, contrast.equal, *values))
    head = ("", "arm", "less", "figure", "equal", "points [95%]", "p", "Holm", f"within ±{study.margin:g}", "seeds")
    return Table("Declared contrasts", head, rows)


def _spread(values: Sequence[float], form: str = ".1f") -> str:
    mean = format(statistics.fmean(values), form)
    return f"{mean} ± {format(statistics.stdev(values), form)}" if len(values) > 1 else mean


def _origin(results: Results, entries: Sequence[Entry]) -> str:
    judge, sizes = results.study.judge, np.bincount(results.labels, minlength=len(results.class_names))
    attacks = ", ".join(judge.attacks)
    further = ""
    if judge.corruptions:
        severities = ", ".join(map(str, judge.severities))
        further += f" Corrupted: the mean over {', '.join(judge.corruptions)} at severities {severities}."
    if judge.subset is not None:
        further += f" {', '.join(judge.subset.attacks)}: on {judge.subset.per_class} images of each class."
    planned = len(results.study.cells())
    found = sorted({finding for entry in entries for finding in entry.values["findings"]})
    return (
        f"{len(entries)} of {planned} models. Judged by {attacks} at {judge.norm} {float(judge.eps):g}, whatever the "
        f"radius of training; weights: {judge.checkpoint}. {len(results.labels)} test images, {sizes.min()} to "
        f"{sizes.max()} per class.{further} Warnings of `fairtat evaluate`: {', '.join(found) or 'none'}. "
        f"fairtat {_list(entries, 'fairtat')} at {_list(entries, 'commit')}, torch {_list(entries, 'torch')}, device "
        f"{_list(entries, 'device')}. Intervals: test images and seeds resampled together."
    )


def _list(entries: Sequence[Entry], key: str) -> str:
    return ", ".join(dict.fromkeys(str(entry.values[key])[:12] for entry in entries))


def _markdown(study: Study, tables: Sequence[Table], sentences: Sequence[str], origin: str) -> str:
    parts = [f"# {study.title}", "![Trade-off curves](curves.png)", *(f"- {each}" for each in sentences)]
    for table in tables:
        if table.rows:
            rule = (":--", *("--:" for _ in table.head[1:]))
            lines = "\n".join("| " + " | ".join(cells) + " |" for cells in (table.head, rule, *table.rows))
            parts += [f"## {table.title}", lines]
    text = "\n\n".join([*parts, origin]) + "\n"
    return text.replace("\n\n- ", "\n- ").replace("(curves.png)\n- ", "(curves.png)\n\n- ")


def _page(study: Study, tables: Sequence[Table], sentences: Sequence[str], origin: str, picture: bytes) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(
        f"<h2>{html.escape(table.title)}</h2><div class=scroll><table><thead>{row(table.head, 'th')}</thead><tbody>"
        + "".join(row(cells, "td") for cells in table.rows)
        + "</tbody></table></div>"
        for table in tables
        if table.rows
    )
    points = "".join(f"<li>{html.escape(each)}</li>" for each in sentences)
    image = base64.b64encode(picture).decode()
    title = html.escape(study.title)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
img {{ max-width: 100%; }} .scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 14px; }}
th, td {{ padding: .3rem .6rem; border-bottom: 1px solid #ccc; text-align: right; white-space: nowrap; }}
th:first-child, td:first-child {{ text-align: left; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #181818; color: #ddd; }} img {{ background: #fff; }} }}
</style></head><body>
<h1>{title}</h1>
<img alt="Trade-off curves: clean against robust accuracy, one line per arm" src="data:image/png;base64,{image}">
<ul>{points}</ul>
{body}
<p>{html.escape(origin)}</p>
</body></html>
"""


def _csv(results: Results, entries: Sequence[Entry]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("arm", "factor", "seed", "radius", "condition", "class", "images", "correct"))
    labels = results.labels
    for entry in entries:
        for condition, correct in entry.correct.items():
            if condition == CORRUPTED:
                continue
            for k, name in enumerate(results.class_names):
                of_class = (labels == k) & ~np.isnan(correct)
                counts = (int(of_class.sum()), int(correct[of_class].sum()))
                writer.writerow((entry.arm, f"{entry.factor:g}", entry.seed, entry.radius, condition, name, *counts))
    return file.getvalue()


def _training_csv(results: Results, entries: Sequence[Entry]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("arm", "factor", "seed", "class", "radius", "target share"))
    for entry in entries:
        radii, targets = (entry.values.get(key) or [None] * len(results.class_names) for key in _OF_TRAINING)
        for values in zip(results.class_names, radii, targets, strict=True):
            writer.writerow((entry.arm, f"{entry.factor:g}", entry.seed, *values))
    return file.getvalue()


def _picture(results: Results, entries: Sequence[Entry]) -> bytes:
    """Clean average against robust worst class and robust average: a small mark per seed, a line through the means.

    A curve has its 95% band.
    """
    optional_import("matplotlib", purpose="the picture of a study", extra="eval")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.8), dpi=120, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    shown = (("robust", "worst"), ("robust", "average"))
    bands = curve_bands(results, shown)
    for number, arm in enumerate(results.study.arms):
        style: Mapping[str, Any] = {"color": COLORS[number % len(COLORS)]}
        shape = SHAPES[number % len(SHAPES)]
        of_arm = [entry for entry in entries if entry.arm == arm.name]
        for axes, measure in zip(panels, shown, strict=True):
            if (arm.name, measure) in bands:
                axes.fill_between(*bands[arm.name, measure], alpha=0.15, linewidth=0, **style)
            means = []
            for factor in arm.factors:
                points = [figures_of(results, entry) for entry in of_arm if entry.factor == factor]
                if not points:
                    continue
                x, y = [each["clean", "average"] for each in points], [each[measure] for each in points]
                axes.scatter(x, y, s=22, marker=shape, alpha=0.45, linewidths=0, **style)
                means.append((statistics.fmean(x), statistics.fmean(y)))
            if means:
                axes.plot(*zip(*means, strict=True), marker=shape, markersize=8, markeredgecolor="black",
                          markeredgewidth=0.6, label=arm.title, **style)  # fmt: skip
    for axes, name in zip(panels, ("of the worst class", "on average"), strict=True):
        axes.set_xlabel("clean accuracy, %")
        axes.set_ylabel(f"robust accuracy {name}, %")
        axes.grid(alpha=0.25)
    panels[1].legend(fontsize=9)
    figure.suptitle(
        f"{results.study.title}: seeds (small), means (large), one line per arm with its 95% band",
        x=0.01,
        ha="left",
        fontsize=11,
    )
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})  # the same bytes from the same results
    return file.getvalue()
