"""Evaluations and comparisons as terminal tables."""

from __future__ import annotations

from collections.abc import Callable
from string import ascii_uppercase

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from fairtat.evaluation.compare import Change, Comparison, points
from fairtat.evaluation.figures import ClassFigures
from fairtat.evaluation.result import Evaluation

BAR_WIDTH = 10
MATRIX_CLASSES = 12  # of more classes a matrix does not fit a terminal
PAIRS = 20
COLUMN_LETTERS = 5

_SUMMARY: dict[str, Callable[[ClassFigures], float]] = {
    "average": lambda f: f.average,
    "worst class": lambda f: f.worst[1],
    "worst 20%": lambda f: f.worst_fifth,
    "best - worst": lambda f: f.gap,
    "std": lambda f: f.std,
}


def tables(evaluation: Evaluation) -> list[Table]:
    """Every table that an evaluation gives something to: classes, conditions, corruptions, who is turned into whom."""
    found = [evaluation_table(evaluation)]
    if any(condition.kind in ("attack", "sweep", "worst") for condition in evaluation.conditions[2:]):
        found.append(conditions_table(evaluation))
    if evaluation.of_kind("corruption"):
        found.append(corruptions_table(evaluation))
    if evaluation.targeted is not None:
        found.append(targeted_table(evaluation))
    return found


def evaluation_table(evaluation: Evaluation) -> Table:
    """A row for each class: clean and robust accuracy with 95% intervals, and the share of errors that landed there."""
    clean, robust = evaluation.clean, evaluation.robust
    table = _table(
        title=f"{evaluation.condition(evaluation.primary).title}; {clean.total} images",
        caption="In %, with Wilson 95% intervals. * worst class. CFPS: share of all robust errors that name it.",
    )
    for header in ("clean", "95%", "robust", "95%"):
        table.add_column(header, justify="right", no_wrap=True, style="dim" if header == "95%" else "")
    table.add_column("", width=BAR_WIDTH)
    table.add_column("CFPS", justify="right")
    for k, name in enumerate(evaluation.class_names):
        if robust.n[k] == 0:
            table.add_row(Text(name), "0", *["-"] * 4, "", "-", style="dim")
            continue
        table.add_row(
            Text(name),
            str(robust.n[k]),
            _accuracy(clean, k),
            _interval(clean, k),
            _accuracy(robust, k),
            _interval(robust, k),
            _bar(robust.accuracy[k], worst=k == robust.worst[0]),
            f"{robust.cfps[k]:.3f}",
        )
    table.add_section()
    for label, figure in _SUMMARY.items():
        table.add_row(label, "", _percent(figure(clean)), "", _percent(figure(robust)))
    return table


def conditions_table(evaluation: Evaluation) -> Table:
    """A row for each condition but the corruptions: average, worst class and spread."""
    table = Table(
        title=Text("every condition", style="bold"),
        caption="In %. attacked: images that the (last) attack ran on; the others were decided before.",
        box=SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("condition", overflow="fold")
    for header in ("average", "worst", "worst 20%", "std", "attacked"):
        table.add_column(header, justify="right")
    for condition in evaluation.conditions:
        if condition.kind == "corruption":
            continue
        figures = condition.figures
        worst, value = figures.worst
        table.add_row(
            Text(condition.title),
            _percent(figures.average),
            Text(f"{evaluation.class_names[worst]} {_percent(value)}"),
            _percent(figures.worst_fifth),
            _percent(figures.std),
            str(condition.attacked) if condition.settings is not None else "",
        )
    return table


def corruptions_table(evaluation: Evaluation) -> Table:
    """A row for each corruption: accuracy over all images at each severity, and the worst class of the severest."""
    mean = evaluation.mean_corruption_error
    assert mean is not None
    table = Table(
        title=Text("accuracy on corrupted images", style="bold"),
        caption=f"In %, by severity. Mean corruption error {_percent(mean)}%.",
        box=SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    errors = evaluation.corruption_errors()
    severities = sorted({severity for of_one in errors.values() for severity in of_one})
    table.add_column("corruption", no_wrap=True)
    for severity in severities:
        table.add_column(str(severity), justify="right")
    table.add_column(f"worst at {severities[-1]}", justify="right")
    for corruption, of_one in errors.items():
        worst, value = evaluation.condition(f"{corruption}/{max(of_one)}").figures.worst
        table.add_row(
            corruption,
            *[_percent(1 - of_one[severity]) if severity in of_one else "-" for severity in severities],
            Text(f"{evaluation.class_names[worst]} {_percent(value)}"),
        )
    return table


def targeted_table(evaluation: Evaluation) -> Table:
    """The share of each class that can be turned into each other one; of many classes, only the most frequent pairs."""
    sweep = evaluation.targeted
    assert sweep is not None
    names, rate = evaluation.class_names, sweep.rate.tolist()
    table = Table(
        title=Text(f"who can be turned into whom: {sweep.settings}, every other class as the target", style="bold"),
        caption="In % of the row's images.",
        box=SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    if len(names) > MATRIX_CLASSES:
        for header, side in (("class", "left"), ("becomes", "left"), ("%", "right")):
            table.add_column(header, justify=side)  # type: ignore[arg-type]
        pairs = [(rate[y][t], y, t) for y in range(len(names)) for t in range(len(names)) if rate[y][t] >= 0]
        for value, y, t in sorted(pairs, key=lambda pair: -pair[0])[:PAIRS]:
            table.add_row(Text(names[y]), Text(names[t]), _percent(value))
        return table
    table.add_column("class", no_wrap=True)
    for name in names:
        table.add_column(Text(name[:COLUMN_LETTERS]), justify="right", no_wrap=True)
    for y, name in enumerate(names):
        highest = max((value for value in rate[y] if value >= 0), default=0.0)
        table.add_row(
            Text(name),
            *[
                Text(f"{100 * value:.0f}", style="bold" if value == highest > 0 else "") if value >= 0 else Text("-")
                for value in rate[y]
            ],
        )
    return table


def comparison_table(comparison: Comparison) -> Table:
    """A row for each class: every run's clean and robust accuracy, and the robust difference against the first run.

    Runs are named by letters in the columns, so that long names cannot squeeze the figures.
    """
    letters = dict(zip(comparison.names, _letters(len(comparison.names)), strict=True))
    others = comparison.names[1:]
    first = letters[comparison.names[0]]
    table = _table(
        title="\n".join(f"{letter} = {name}" for name, letter in letters.items())
        + f"\n{comparison.attack}; {comparison.baseline.clean.total} images",
        caption=(
            "In % and points of robust accuracy. * worst class of the run. ~ within noise: the 95% interval of the "
            "difference contains 0. Intervals cover the choice of test images, not of the training seed."
        ),
    )
    for name, letter in letters.items():
        table.add_column(f"{letter}\nclean", justify="right")
        table.add_column(f"{letter}\nrobust", justify="right")
        if name in others:
            table.add_column(f"{letter} - {first}\nrobust", justify="right")
            if len(others) == 1:
                table.add_column("\n95%", justify="right", no_wrap=True, style="dim")

    changes = {name: comparison.changes(name) for name in others}
    for k, class_name in enumerate(comparison.class_names):
        n = comparison.baseline.robust.n[k]
        row: list[str | Text] = [Text(class_name), str(n)]
        for name, evaluation in comparison.evaluations.items():
            row += [_accuracy(evaluation.clean, k), _accuracy(evaluation.robust, k)]
            if name in changes:
                row += _difference(changes[name][k], interval=len(others) == 1)
        table.add_row(*row, style="dim" if n == 0 else None)
    table.add_section()
    for label, figure in _SUMMARY.items():
        row = [label, ""]
        for name, evaluation in comparison.evaluations.items():
            row += [_percent(figure(evaluation.clean)), _percent(figure(evaluation.robust))]
            if name not in changes:
                continue
            if label == "average":
                row += _difference(comparison.average_change(name), interval=len(others) == 1)
            else:
                # No interval: the worst class is picked by its low figure, so the usual ones do not hold for it.
                row.append(points(figure(evaluation.robust) - figure(comparison.baseline.robust)))
                row += [""] if len(others) == 1 else []
        table.add_row(*row)
    return table


def _table(title: str, caption: str) -> Table:
    # Text, here and for the names: rich would take a "[word]" in a plain string for its markup.
    table = Table(
        title=Text(title, style="bold"), caption=caption, box=SIMPLE_HEAD, title_justify="left", caption_justify="left"
    )
    table.add_column("class", no_wrap=True)
    table.add_column("n", justify="right")
    return table


def _letters(count: int) -> list[str]:
    return list(ascii_uppercase[:count]) if count <= 26 else [f"R{i + 1}" for i in range(count)]


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _accuracy(figures: ClassFigures, k: int) -> Text:
    if figures.n[k] == 0:
        return Text("-")
    is_worst = k == figures.worst[0]
    return Text(f"{'*' if is_worst else ''}{_percent(figures.accuracy[k])}", style="bold" if is_worst else "")


def _interval(figures: ClassFigures, k: int) -> str:
    low, high = figures.interval[k]
    return f"{100 * low:.0f}-{100 * high:.0f}"


def _bar(value: float, worst: bool) -> Text:
    return Text("\u2501" * round(value * BAR_WIDTH), style="red" if worst else "blue")


def _difference(change: Change, interval: bool) -> list[str | Text]:
    if change.n == 0:
        return ["-", ""] if interval else ["-"]
    if change.clear:
        shown = Text(points(change.difference), style="bold green" if change.difference > 0 else "bold red")
    else:
        shown = Text(("~" if change.difference else "") + points(change.difference), style="dim")
    low, high = change.interval
    return [shown, f"{points(low)}..{points(high)}"] if interval else [shown]
