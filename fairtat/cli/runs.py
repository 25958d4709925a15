"""``fairtat runs [DIR]``: the runs in a folder, what sets them apart, how far they are, and their figures."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonargparse
from rich.console import Console
from rich.table import Table

from fairtat.cli.parser import Parser
from fairtat.errors import UserError, did_you_mean
from fairtat.evaluation import Evaluation
from fairtat.files import parse_json
from fairtat.text import printable
from fairtat.training.config import leaves
from fairtat.training.run.overview import Glance, differing, find_runs, glance

_FIGURES = ("clean", "clean_worst", "robust", "robust_worst")
_SORTS = ("name", "state", "epoch", *_FIGURES)


@dataclass(frozen=True)
class Row:
    """One run as it is listed; accuracies in [0, 1]."""

    name: str
    run: Glance
    settings: dict[str, Any]  # those that differ among the runs
    figures: dict[str, float | None]
    source: str | None  # what the figures are of

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        run = self.run
        return {
            "name": self.name,
            "path": str(run.path),
            "state": run.state,
            "problem": run.problem,
            "process": run.owner,
            "epoch": run.epoch,
            "epochs": None if run.config is None else run.config.epochs,
            "settings": {key: _plain(value) for key, value in self.settings.items()},
            "figures": self.figures,
            "figures_of": self.source,
        }


def parser() -> jsonargparse.ArgumentParser:
    """Arguments and help of the subcommand."""
    parser = Parser(
        "runs",
        "List the runs in a folder and below it: state (finished, running, interrupted, broken), epochs, accuracies\n"
        "(average and worst class, of the last evaluation on the test set, else of validation), and the settings that\n"
        "differ. A folder that cannot be read is listed with the reason.",
        "  fairtat runs\n  fairtat runs studies --sort robust_worst\n  fairtat runs --json | jq '.runs[].figures'",
    )
    parser.add_argument("folder", type=str, nargs="?", default="runs", help="where to look; by default runs")
    parser.add_argument(
        "--sort",
        type=str,
        default="name",
        help=f"{', '.join(_SORTS)} or a setting such as attack.eps. Figures: largest first. What has none comes last.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    return parser


def run(options: jsonargparse.Namespace) -> int:
    """List the runs."""
    folder = Path(options.folder)
    rows = _sorted(_rows(folder), options.sort)
    if options.json:
        print(json.dumps({"folder": str(folder), "runs": [row.to_dict() for row in rows]}, indent=1, allow_nan=False))
    else:
        _print(folder, rows)
    return 0


def _rows(folder: Path) -> list[Row]:
    runs = [glance(path) for path in find_runs(folder)]
    keys = differing([run.config for run in runs if run.config is not None])
    rows = []
    for run in runs:
        known = {} if run.config is None else dict(leaves(run.config))
        figures, source = _figures(run)
        settings = {key: known[key] for key in keys if key in known}
        rows.append(Row(str(run.path.relative_to(folder)), run, settings, figures, source))
    return rows


def _figures(run: Glance) -> tuple[dict[str, float | None], str | None]:
    """Of the last evaluation on the test set, else of validation after the last epoch."""
    file = run.path / "evaluation" / "test.json"
    try:
        found = Evaluation.from_dict(parse_json(file.read_bytes(), file.name))
        values = [found.clean.average, found.clean.worst[1], found.robust.average, found.robust.worst[1]]
        if all(math.isfinite(value) for value in values):
            return dict(zip(_FIGURES, values, strict=True)), f"test, {found.primary}"
    except (OSError, UserError, ValueError, KeyError, TypeError, IndexError, StopIteration):
        pass  # not evaluated, or by another version: validation says something too
    values_of = [value for pair in (run.clean, run.robust) for value in pair or (None, None)]
    return dict(zip(_FIGURES, values_of, strict=True)), None if run.robust is None else "validation"


def _sorted(rows: list[Row], key: str) -> list[Row]:
    settings = {name for row in rows for name in row.settings}
    known = {name for row in rows if row.run.config is not None for name, _ in leaves(row.run.config)}
    if key not in _SORTS and key not in known:
        raise UserError(f"--sort is {key!r}{did_you_mean(key, (*_SORTS, *sorted(settings)))}")
    if key == "name":
        return rows
    if key in _FIGURES:
        return sorted(rows, key=lambda row: -math.inf if (value := row.figures[key]) is None else value, reverse=True)
    return sorted(rows, key=lambda row: _order(_value(row, key)))


def _value(row: Row, key: str) -> Any:
    if key in ("state", "epoch"):
        return getattr(row.run, key)
    return None if row.run.config is None else dict(leaves(row.run.config)).get(key)


def _order(value: Any) -> tuple[int, float, str]:
    """Numbers by size, then text, then what is missing."""
    if isinstance(value, int | float):
        return 0, float(value), ""
    return (2, 0.0, "") if value is None else (1, 0.0, str(value))


def _print(folder: Path, rows: list[Row]) -> None:
    console = Console(highlight=False, markup=False)
    if not rows:
        console.print(f"{folder}: no runs", soft_wrap=True)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("run", "state", "epoch", "clean", "worst", "robust", "worst", "of"):
        justify: Any = "right" if title in ("epoch", "clean", "worst", "robust") else "left"
        table.add_column(title, justify=justify, overflow="fold")
    for row in rows:
        run = row.run
        epochs = "" if run.epoch is None else str(run.epoch) + (f"/{run.config.epochs}" if run.config else "")
        figures = ["" if (value := row.figures[key]) is None else f"{100 * value:.1f}%" for key in _FIGURES]
        table.add_row(printable(row.name), run.state, epochs, *figures, row.source or "")
    console.print(table)
    # Below the table, where nothing is cut.
    notes = [(row.name, _note(row)) for row in rows]
    if any(note for _, note in notes):
        console.print("\nsettings that differ", style="bold")
    for name, note in notes:
        if note:
            console.print(printable(f"{name}: {note}"), soft_wrap=True)


def _note(row: Row) -> str:
    """What sets a run apart, or why it cannot be read."""
    if row.run.problem is not None:
        return f"broken: {row.run.problem}"
    return ", ".join(f"{key} {_plain(value)}" for key, value in row.settings.items())


def _plain(value: Any) -> Any:
    """As YAML writes it: fractions stay fractions, and lists and mappings are their text."""
    plain = getattr(value, "plain", None)
    if plain is not None:
        return plain()
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
