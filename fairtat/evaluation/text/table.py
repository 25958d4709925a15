"""Evaluations and comparisons as terminal tables."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from string import ascii_uppercase

from rich.console import Console
from rich.text import Text

from fairtat.evaluation.compare import Comparison
from fairtat.evaluation.groups import Grouping, group_figures
from fairtat.evaluation.metrics.accuracies import Accuracies
from fairtat.evaluation.metrics.figures import ClassFigures
from fairtat.evaluation.metrics.intervals import Difference
from fairtat.evaluation.result import Evaluation
from fairtat.evaluation.text.layout import Cell, Column, FittedTable
from fairtat.evaluation.text.story import lowest_of
from fairtat.evaluation.text.wording import ascii_minus, plain_points
from fairtat.text import printable, shortened

BAR_WIDTH = 10
MATRIX_CLASSES = 12  # of more classes a matrix does not fit a terminal
PAIRS = 20
COLUMN_LETTERS = 5

_SUMMARY: dict[str, tuple[str, Callable[[Accuracies], float]]] = {
    "average": ("average", lambda f: f.average),
    "worst class": ("worst", lambda f: f.worst[1]),
    "worst 20%": ("worst_fifth", lambda f: f.worst_fifth),
    "best - worst": ("gap", lambda f: f.gap),
    "std": ("std", lambda f: f.std),
    "Gini": ("gini", lambda f: f.gini),
}
_LESS_IS_BETTER = ("gap", "std", "gini")


def tables(evaluation: Evaluation) -> list[FittedTable]:
    """Every table for which the evaluation has figures: classes, conditions, corruptions, targeted attacks."""
    found = [evaluation_table(evaluation)]
    if any(condition.kind in ("attack", "sweep", "worst") for condition in evaluation.conditions[2:]):
        found.append(conditions_table(evaluation))
    if evaluation.of_kind("corruption"):
        found.append(corruptions_table(evaluation))
    if evaluation.targeted is not None:
        found.append(targeted_table(evaluation))
    return found


def as_text(shown: Iterable[FittedTable], columns: int | None = None) -> str:
    """Tables as plain text, without colors, for this many columns; by default the terminal's, or 80."""
    console = Console(file=io.StringIO(), width=columns, color_system=None, legacy_windows=False)
    with console.capture() as captured:
        for table in shown:
            console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def evaluation_table(evaluation: Evaluation) -> FittedTable:
    """A row for each class: clean and robust accuracy with 95% intervals, and the share of errors that landed there."""
    clean, robust = evaluation.clean, evaluation.robust
    table = FittedTable(
        title=f"{evaluation.condition(evaluation.primary).title}; {clean.total} images",
        caption="In %, with Wilson 95% intervals. * worst class. CFPS: share of all robust errors that name it. "
        f"Gini: of the class accuracies, normalized. {ascii_minus(lowest_of(robust, evaluation.class_names))}",
        columns=[
            *_class_columns(),
            *_accuracy_columns(),
            Column("CFPS", group=3),
        ],
    )
    _add_accuracies(table, evaluation.class_names, clean, robust, [f"{share:.3f}" for share in robust.cfps])
    return table


def groups_table(evaluation: Evaluation, grouping: Grouping) -> FittedTable:
    """A row for each group of images, as in `evaluation_table`."""
    clean, robust = (group_figures(evaluation, grouping, condition) for condition in ("clean", "robust"))
    left_out = int((grouping.member < 0).sum())
    table = FittedTable(
        title=f"by {grouping.title}; {robust.total} images"
        + (f", {left_out} more are of no group" if left_out else ""),
        caption=f"In %, with Wilson 95% intervals. * worst group. {ascii_minus(lowest_of(robust, grouping.names))}",
        columns=[
            Column("group", "name", group=0),
            Column("n", group=0),
            *_accuracy_columns(),
        ],
    )
    _add_accuracies(table, grouping.names, clean, robust)
    return table


def _accuracy_columns() -> list[Column]:
    return [
        Column("clean", group=1),
        Column("95%", group=1, style="dim"),
        Column("robust", group=2),
        Column("95%", group=2, style="dim"),
        Column("", "bar", group=2),
    ]


def _add_accuracies(
    table: FittedTable, names: Sequence[str], clean: Accuracies, robust: Accuracies, last: Sequence[str] = ()
) -> None:
    """A row for each name, then the figures over all; ``last`` fills one more column."""
    for k, name in enumerate(names):
        if robust.n[k] == 0:
            table.add_row(name, "0", *["-"] * 4, "", *["-"] * bool(last), style="dim")
            continue
        table.add_row(
            name,
            str(robust.n[k]),
            _accuracy(clean, k),
            _interval(clean, k),
            _accuracy(robust, k),
            _interval(robust, k),
            _bar(robust.accuracy[k], worst=k == robust.worst[0]),
            *last[k : k + 1],
        )
    table.add_section()
    for label, (_, figure) in _SUMMARY.items():
        label = label if last else label.replace("class", "group")
        table.add_row(label, "", _percent(figure(clean)), "", _percent(figure(robust)))


def conditions_table(evaluation: Evaluation) -> FittedTable:
    """A row for each condition except the corruptions: average, worst class and spread."""
    table = FittedTable(
        title="every condition",
        caption="In %. attacked: images that the (last) attack ran on; the others were decided before.",
        columns=[
            Column("condition", "text", group=0),
            Column("average", group=1),
            *_worst_columns("worst class", group=2),
            *(Column(header, group=k) for k, header in enumerate(("worst 20%", "std", "attacked"), 3)),
        ],
    )
    for condition in evaluation.listed:
        if condition.kind == "corruption":
            continue
        figures = condition.figures
        table.add_row(
            condition.title,
            _percent(figures.average),
            *_worst_cells(evaluation, figures),
            _percent(figures.worst_fifth),
            _percent(figures.std),
            str(condition.attacked) if condition.settings is not None else "",
        )
    return table


def corruptions_table(evaluation: Evaluation) -> FittedTable:
    """A row for each corruption: accuracy over all images at each severity, and the worst class of the severest."""
    mean = evaluation.mean_corruption_error
    assert mean is not None
    errors = evaluation.corruption_errors()
    severities = sorted({severity for of_one in errors.values() for severity in of_one})
    table = FittedTable(
        title="accuracy on corrupted images",
        caption=f"In %, by severity. Mean corruption error {_percent(mean)}%.",
        columns=[
            Column("corruption", "name", group=0),
            *(Column(str(severity), group=1) for severity in severities),
            *_worst_columns(f"worst at {severities[-1]}", group=2),
        ],
    )
    for corruption, of_one in errors.items():
        table.add_row(
            corruption,
            *[_percent(1 - of_one[severity]) if severity in of_one else "-" for severity in severities],
            *_worst_cells(evaluation, evaluation.condition(f"{corruption}/{max(of_one)}").figures),
        )
    return table


def targeted_table(evaluation: Evaluation) -> FittedTable:
    """The share of each class that can be turned into each other one; of many classes, only the most frequent pairs."""
    sweep = evaluation.targeted
    assert sweep is not None
    names, rate = evaluation.class_names, sweep.rate.tolist()
    title = f"which classes can be turned into which: {sweep.settings}, every other class as the target"
    caption = "In % of the row's images."
    if len(names) > MATRIX_CLASSES:
        table = FittedTable(title, caption, [Column("class", "name"), Column("becomes", "name"), Column("%")])
        pairs = [(rate[y][t], y, t) for y in range(len(names)) for t in range(len(names)) if rate[y][t] >= 0]
        for value, y, t in sorted(pairs, key=lambda pair: -pair[0])[:PAIRS]:
            table.add_row(names[y], names[t], _percent(value))
        return table
    targets = [Column(text, group=k) for k, text in enumerate(shortened(names, COLUMN_LETTERS), 1)]
    table = FittedTable(title, caption, [Column("class", "name", group=0), *targets])
    for y, name in enumerate(names):
        highest = max((value for value in rate[y] if value >= 0), default=0.0)
        table.add_row(
            name,
            *[
                Text(f"{100 * value:.0f}", style="bold" if value == highest > 0 else "") if value >= 0 else "-"
                for value in rate[y]
            ],
        )
    return table


def comparison_table(comparison: Comparison) -> FittedTable:
    """A row for each class: every run's clean and robust accuracy, and the robust difference against the first run.

    Runs are named by letters in the columns, so that long names cannot squeeze the figures.
    """
    letters = dict(zip(comparison.names, _letters(len(comparison.names)), strict=True))
    others = comparison.names[1:]
    with_interval = len(others) == 1
    first = letters[comparison.names[0]]
    columns = _class_columns()
    for group, (name, letter) in enumerate(letters.items(), 1):
        columns += [Column(f"{letter}\nclean", group=2 * group), Column(f"{letter}\nrobust", group=2 * group)]
        if name in others:
            columns.append(Column(f"{letter} - {first}\nrobust", group=2 * group + 1))
            if with_interval:
                columns.append(Column("\n95%", group=2 * group + 1, style="dim"))
    table = FittedTable(
        title="\n".join(f"{letter} = {printable(name)}" for name, letter in letters.items())
        + f"\n{comparison.attack}; {comparison.baseline.clean.total} images",
        caption=(
            "In % and points of robust accuracy. * worst class of the run. ~ within noise: the 95% interval of the "
            "difference contains 0. Intervals cover the choice of test images, not of the training seed."
        ),
        columns=columns,
    )

    changes = {name: comparison.changes(name) for name in others}
    for k, class_name in enumerate(comparison.class_names):
        n = comparison.baseline.robust.n[k]
        row: list[Cell] = [class_name, str(n)]
        for name, evaluation in comparison.evaluations.items():
            row += [_accuracy(evaluation.clean, k), _accuracy(evaluation.robust, k)]
            if name in changes:
                row += _difference(changes[name][k], with_interval) if n else ["-", ""][: 1 + with_interval]
        table.add_row(*row, style="dim" if n == 0 else "")
    table.add_section()
    for label, (key, figure) in _SUMMARY.items():
        row = [label, ""]
        for name, evaluation in comparison.evaluations.items():
            row += [_percent(figure(evaluation.clean)), _percent(figure(evaluation.robust))]
            if name in changes:
                change = comparison.figure_change(name, key)
                row += _difference(change, with_interval, less_is_better=key in _LESS_IS_BETTER)
        table.add_row(*row)
    return table


def _class_columns() -> list[Column]:
    return [Column("class", "name", group=0), Column("n", group=0)]


def _worst_columns(header: str, group: int) -> list[Column]:
    return [Column(header, "name", group), Column("", group=group)]


def _worst_cells(evaluation: Evaluation, figures: ClassFigures) -> list[Cell]:
    worst, value = figures.worst
    return [evaluation.class_names[worst], _percent(value)]


def _letters(count: int) -> list[str]:
    return list(ascii_uppercase[:count]) if count <= 26 else [f"R{i + 1}" for i in range(count)]


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _accuracy(figures: Accuracies, k: int) -> Text:
    if figures.n[k] == 0:
        return Text("-")
    is_worst = k == figures.worst[0]
    return Text(f"{'*' if is_worst else ''}{_percent(figures.accuracy[k])}", style="bold" if is_worst else "")


def _interval(figures: Accuracies, k: int) -> str:
    low, high = figures.interval[k]
    return f"{100 * low:.0f}-{100 * high:.0f}"


def _bar(value: float, worst: bool) -> Text:
    return Text("\u2501" * round(value * BAR_WIDTH), style="red" if worst else "blue")


def _difference(change: Difference, interval: bool, less_is_better: bool = False) -> list[Cell]:
    if change.clear:
        gained = (change.difference > 0) != less_is_better
        shown = Text(plain_points(change.difference), style="bold green" if gained else "bold red")
    else:
        moved = plain_points(change.difference)
        shown = Text(moved if moved == "0.0" else f"~{moved}", style="dim")
    low, high = change.interval
    return [shown, f"{plain_points(low)}..{plain_points(high)}"] if interval else [shown]
