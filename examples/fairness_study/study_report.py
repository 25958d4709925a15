"""The study's tables, sentences and figure, made from results/DATA.json and from nothing else."""

from __future__ import annotations

import io
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

TITLES = {"at": "AT", "trades": "TRADES", "cfa": "CFA", "dafa": "DAFA", "fairtat": "FAIR-TAT"}
BASELINE = "at"
# Okabe and Ito's palette; the shapes tell the methods apart without it.
STYLES = {
    "at": ("#555555", "o"),
    "trades": ("#0072B2", "s"),
    "cfa": ("#E69F00", "^"),
    "dafa": ("#CC79A7", "D"),
    "fairtat": ("#009E73", "P"),
}
FIGURES = ("clean average", "clean worst class", "robust average", "robust worst class")
NONE = "-"
# Two-sided 95% quantiles of Student's t with 1, 2, ... degrees of freedom.
T95 = (
    12.706205, 4.302653, 3.182446, 2.776445, 2.570582, 2.446912, 2.364624, 2.306004, 2.262157, 2.228139,
    2.200985, 2.178813, 2.160369, 2.144787, 2.131450, 2.119905, 2.109816, 2.100922, 2.093024, 2.085963,
    2.079614, 2.073873, 2.068658, 2.063899, 2.059539, 2.055529, 2.051831, 2.048407, 2.045230, 2.042272,
)  # fmt: skip

Results = Mapping[str, Any]


class Difference(NamedTuple):
    """Mean of paired differences over ``pairs`` seeds, with its 95% interval."""

    mean: float
    low: float
    high: float
    pairs: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def t95(degrees: int) -> float:
    """Two-sided 95% quantile of Student's t; beyond 30 degrees of freedom ``z + (z^3 + z) / 4 degrees + ...``."""
    if degrees < 1:
        raise ValueError(f"degrees must be at least 1, got {degrees}")
    if degrees <= len(T95):
        return T95[degrees - 1]
    z = statistics.NormalDist().inv_cdf(0.975)
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def paired(values: Mapping[int, float], baseline: Mapping[int, float]) -> Difference | None:
    """Differences of the same seed: ``mean -+ t s / sqrt(n)``, s over n - 1; None with fewer than two pairs."""
    differences = [values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline.keys())]
    n = len(differences)
    if n < 2:
        return None
    mean = statistics.fmean(differences)
    half = t95(n - 1) * statistics.stdev(differences) / math.sqrt(n)
    return Difference(mean, mean - half, mean + half, n)


def by_seed(results: Results, method: str) -> dict[str, dict[int, float]]:
    """Each of `FIGURES` in points (0 to 100), by seed."""
    found: dict[str, dict[int, float]] = {figure: {} for figure in FIGURES}
    for run in results["runs"]:
        if run["method"] == method:
            for condition in ("clean", "robust"):
                found[f"{condition} average"][run["seed"]] = 100 * run[condition]["average"]
                found[f"{condition} worst class"][run["seed"]] = 100 * run[condition]["worst"]["value"]
    return found


def differences(results: Results) -> dict[str, dict[str, Difference | None]]:
    """Of every method but the baseline, for each of `FIGURES`."""
    baseline = by_seed(results, BASELINE)
    return {
        method: {figure: paired(values, baseline[figure]) for figure, values in by_seed(results, method).items()}
        for method in methods_of(results)
        if method != BASELINE
    }


def methods_of(results: Results) -> list[str]:
    found = {run["method"] for run in results["runs"]}
    return [method for method in TITLES if method in found]


def markdown(results: Results) -> str:
    """Table, paired differences, what they say, and where the figures come from."""
    data = results["data"]
    parts = [
        f"![Worst class against average robust accuracy of every seed]({data}.png)",
        "Test accuracy in %, mean ± standard deviation over seeds:",
        _accuracies(results),
        f"Difference to {TITLES[BASELINE]} of the same seed in points, mean and 95% interval over seeds:",
        _differences(results),
        verdict(results),
        _origin(results),
    ]
    return "\n\n".join(parts)


def _accuracies(results: Results) -> str:
    rows = []
    for method in methods_of(results):
        figures = by_seed(results, method)
        counts = str(len(figures[FIGURES[0]]))
        rows.append((TITLES[method], counts, *(_spread(list(figures[figure].values())) for figure in FIGURES)))
    return _table(("method", "seeds", *FIGURES), rows)


def _differences(results: Results) -> str:
    rows = [
        (TITLES[method], *(_interval(found[figure]) for figure in FIGURES))
        for method, found in differences(results).items()
    ]
    return _table(("method", *FIGURES), rows)


def _spread(values: Sequence[float]) -> str:
    mean = f"{statistics.fmean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def _interval(difference: Difference | None) -> str:
    if difference is None:
        return NONE
    text = f"{difference.mean:+.1f} [{difference.low:+.1f}, {difference.high:+.1f}]"
    return f"**{text}**" if difference.clear else text


def verdict(results: Results) -> str:
    """Which differences leave out zero, and how many would by chance."""
    asked = [
        (f"{TITLES[method]} {figure} {difference.mean:+.1f}", difference.clear)
        for method, found in differences(results).items()
        for figure, difference in found.items()
        if difference is not None
    ]
    if not asked:
        return f"No difference to {TITLES[BASELINE]} has an interval yet: that takes two seeds of both."
    clear = [text for text, is_clear in asked if is_clear]
    chance = (
        f"if no method differed from {TITLES[BASELINE]} at all, about {0.05 * len(asked):.1f} of {len(asked)} "
        "would do so by chance."
    )
    if not clear:
        return f"None of the {len(asked)} intervals leaves out zero; {chance}"
    return (
        f"{len(clear)} of the {len(asked)} intervals {'leaves' if len(clear) == 1 else 'leave'} out zero (bold): "
        f"{', '.join(clear)}; {chance}"
    )


def _origin(results: Results) -> str:
    """What was judged, how, and what computed it."""
    runs, sizes = results["runs"], results["class_sizes"]
    seconds = [run["train_seconds"] for run in runs]
    findings = Counter(finding for run in runs for finding in run["findings"])
    warned = ", ".join(f"{finding} in {count} of {len(runs)} runs" for finding, count in findings.items()) or "none"
    days = sorted(run["date"][:10] for run in runs)
    return (
        f"{sum(sizes)} test images, {_range(min(sizes), max(sizes))} a class: one image is "
        f"{_range(100 / max(sizes), 100 / min(sizes), '.1f')} points of its class's accuracy. Attack: "
        f"{results['attack']['title']}. Checkpoint: {results['checkpoint']}. "
        f"Warnings of `fairtat evaluate`: {warned}. Epochs: {_list(run['epochs'] for run in runs)}; "
        f"{_range(min(seconds), max(seconds), '.0f')} s of training a run, threads: "
        f"{_list(run['threads'] for run in runs)}, device: {_list(run['device'] for run in runs)}, engine: "
        f"{_list(run['engine'] for run in runs)}. fairtat {_list(run['fairtat'] for run in runs)} at "
        f"{_list(_short(run['commit']) for run in runs)}, torch {_list(run['torch'] for run in runs)}, "
        f"{_range(days[0], days[-1])}."
    )


def _short(commit: str | None) -> str:
    """A commit's first twelve digits, with its mark when files differed from it."""
    if commit is None:
        return "an unknown commit"
    name, _, changes = commit.partition("-")
    return name[:12] + ("+changes" if changes else "")


def _range(low: Any, high: Any, form: str = "") -> str:
    first, last = format(low, form), format(high, form)
    return first if first == last else f"{first} to {last}"


def _list(values: Any) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---"] + ["--:"] * (len(head) - 1)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def _marks(block: str) -> tuple[str, str]:
    return f"<!-- {block}: begin -->", f"<!-- {block}: end -->"


def empty_block(block: str) -> str:
    """Where `replaced` puts a data set's part of a new README."""
    return "\n".join(_marks(block)) + "\n"


def replaced(text: str, block: str, content: str) -> str:
    """``text`` with ``content`` between the markers of ``block``; ValueError unless each of them is there once."""
    begin, end = _marks(block)
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"expected the line {begin} once, and after it {end} once")
    before, rest = text.split(begin)
    return f"{before}{begin}\n\n{content}\n\n{end}{rest.split(end)[1]}"


def png(results: Results) -> bytes:
    """Worst-class against average robust accuracy: a small mark for every seed, a large one for their mean."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.6), dpi=120, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for method in methods_of(results):
        colour, shape = STYLES[method]
        found = by_seed(results, method)
        average, worst = (list(found[f"robust {which}"].values()) for which in ("average", "worst class"))
        axes.scatter(average, worst, s=40, color=colour, marker=shape, alpha=0.55, linewidths=0)
        means = ([statistics.fmean(average)], [statistics.fmean(worst)])
        axes.scatter(*means, s=150, color=colour, marker=shape, edgecolor="black", label=TITLES[method], zorder=3)
    axes.set_xlabel("average robust accuracy, %")
    axes.set_ylabel("robust accuracy of the worst class, %")
    axes.set_title(f"{results['data']}: every seed (small) and their mean (large)", loc="left", fontsize=10.5)
    axes.grid(alpha=0.25)
    axes.legend(frameon=True, fontsize=9)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})  # the same bytes from the same results
    return file.getvalue()
