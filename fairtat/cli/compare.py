"""``fairtat compare RUN RUN``: who gained, who paid, and a picture of it."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import jsonargparse
from rich.console import Console
from rich.padding import Padding

from fairtat.cli.parser import Parser
from fairtat.cli.runs import (
    AttackOptions,
    EvaluationOptions,
    evaluate_run,
    evaluation_path,
    open_run,
    save_evaluation,
    stored_evaluation,
)
from fairtat.errors import UserError
from fairtat.evaluation import AttackSettings, Comparison, Evaluation
from fairtat.evaluation.table import comparison_table
from fairtat.training import Run
from fairtat.training.files import write_atomic


@dataclass
class CompareOptions(EvaluationOptions):
    """Options of `fairtat compare`."""

    output: str = "comparison"
    """Folder for compare.png and compare.json."""


def parser() -> jsonargparse.ArgumentParser:
    """Arguments and help of the subcommand."""
    parser = Parser(
        "compare",
        "Compare runs class by class under one attack; differences are against the first run.\n"
        "A run that has no evaluation with these settings yet is evaluated first. Prints a table and who gained and\n"
        "who paid; writes a bar chart (compare.png) and every figure (compare.json).",
        "  fairtat compare runs/at runs/fairtat\n"
        "  fairtat compare runs/at runs/trades runs/fairtat --attack.eps 8/255 --output figures",
    )
    parser.add_argument("runs", type=str, nargs="+", help="run folders, the baseline first")
    parser.add_class_arguments(CompareOptions, sub_configs=False)
    return parser


def run(options: jsonargparse.Namespace) -> int:
    """Compare runs."""
    names = display_names(options.runs)
    runs = {name: open_run(path, options.device) for name, path in zip(names, options.runs, strict=True)}
    attack = AttackOptions.parsed(options.attack).settings(next(iter(runs.values())))
    _warn_of_differences(runs)
    comparison = Comparison(
        {name: _evaluation(name, run, attack, options.split, options.batch_size) for name, run in runs.items()}
    )

    console = Console(highlight=False, markup=False)
    console.print(comparison_table(comparison))
    for name in comparison.names[1:]:
        console.print(f"\n{name} against {comparison.names[0]}, robust accuracy in points:", style="bold")
        for line in comparison.summary(name):
            console.print(Padding(line, (0, 0, 0, 2), expand=False))
    console.print()
    for path in _write(comparison, Path(options.output)):
        console.print(f"written: {path}", soft_wrap=True)
    return 0


def display_names(paths: list[str]) -> list[str]:
    """The shortest ends of the folders' paths that tell them apart: mostly the last component."""
    parts = [Path(path).resolve().parts for path in paths]
    if len(parts) < 2:
        raise UserError(f"compare needs at least two runs, got {len(parts)}")
    if len(set(parts)) < len(parts):
        raise UserError("compare needs different runs, but the same folder is given twice")
    length = next(k for k in range(1, max(map(len, parts)) + 1) if len({p[-k:] for p in parts}) == len(parts))
    return [str(Path(*p[-length:])) for p in parts]


def _evaluation(name: str, run: Run, attack: AttackSettings, split: str, batch_size: int) -> Evaluation:
    try:
        stored = stored_evaluation(run, attack, split)
    except (ValueError, OSError):
        stored = None  # damaged: made again below, and replaced
    if stored is not None:
        return stored
    print(f"{name}: evaluating ({attack}, {split} split)", file=sys.stderr)
    evaluation = evaluate_run(run, attack, split, batch_size)
    save_evaluation(evaluation, evaluation_path(run.path / "evaluation", split, attack))
    return evaluation


def _warn_of_differences(runs: dict[str, Run]) -> None:
    trained_with = {name: f"{run.config.attack.norm}, eps {run.config.attack.eps}" for name, run in runs.items()}
    if len(set(trained_with.values())) > 1:
        _warn("trained with different radii", trained_with, "; all are attacked with the same one")
    trained_for = {name: f"{run.epoch} of {run.config.epochs} epochs" for name, run in runs.items()}
    if len(set(trained_for.values())) > 1:
        _warn("trained for different times", trained_for)


def _warn(what: str, values: dict[str, str], consequence: str = "") -> None:
    listed = ", ".join(f"{name}: {value}" for name, value in values.items())
    print(f"warning: {what} ({listed}){consequence}", file=sys.stderr)


def _write(comparison: Comparison, folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(comparison.to_dict(), indent=1, allow_nan=False) + "\n"
    write_atomic(folder / "compare.json", lambda file: file.write(text.encode()))
    written = [folder / "compare.json"]
    try:
        from fairtat.evaluation.plot import comparison_png

        picture = comparison_png(comparison)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "matplotlib":
            raise
        print("no compare.png: it needs matplotlib (pip install 'fairtat[eval]')", file=sys.stderr)
    else:
        write_atomic(folder / "compare.png", lambda file: file.write(picture))
        written.insert(0, folder / "compare.png")
    return written
