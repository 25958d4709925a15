"""``fairtat evaluate RUN``: clean and robust accuracy, class by class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jsonargparse
from rich.console import Console

from fairtat.cli.parser import Parser
from fairtat.cli.runs import (
    AttackOptions,
    EvaluationOptions,
    evaluate_run,
    evaluation_path,
    open_run,
    save_evaluation,
)
from fairtat.evaluation.table import evaluation_table


@dataclass
class EvaluateOptions(EvaluationOptions):
    """Options of `fairtat evaluate`."""

    output: str | None = None
    """Folder for the results; by default RUN/evaluation."""


def parser() -> jsonargparse.ArgumentParser:
    """Arguments and help of the subcommand."""
    parser = Parser(
        "evaluate",
        "Count, class by class, what a trained run gets right on clean images and under untargeted PGD.\n"
        "Prints a table; writes the figures (.json) and every image's outcome (.npz).",
        "  fairtat evaluate runs/fairtat\n"
        "  fairtat evaluate runs/fairtat --attack.eps 8/255 --attack.steps 50 --attack.restarts 5",
    )
    parser.add_argument("run", type=str, help="run folder, as `fairtat train` leaves it")
    parser.add_class_arguments(EvaluateOptions, sub_configs=False)
    return parser


def run(options: jsonargparse.Namespace) -> int:
    """Evaluate one run."""
    trained = open_run(options.run, options.device)
    attack = AttackOptions.parsed(options.attack).settings(trained)
    evaluation = evaluate_run(trained, attack, options.split, options.batch_size)
    folder = trained.path / "evaluation" if options.output is None else Path(options.output)
    path = evaluation_path(folder, options.split, attack)
    save_evaluation(evaluation, path)
    console = Console(highlight=False, markup=False)
    console.print(f"{options.run}: epoch {trained.epoch}, {options.split} split of {trained.config.data.name}")
    console.print(evaluation_table(evaluation))
    console.print(f"written: {path} (and .npz)", soft_wrap=True)
    return 0
