"""``fairtat report A.json B.json``: saved evaluations as one page, without the models and images they were made of."""

from __future__ import annotations

from pathlib import Path

import jsonargparse
from rich.console import Console

from fairtat.cli.jobs.runs import EVALUATION, evaluation_names
from fairtat.cli.parser import Parser, comma_separated
from fairtat.errors import UserError
from fairtat.evaluation import Evaluation
from fairtat.evaluation.groups import GROUPS_HELP, read_groups
from fairtat.evaluation.report import Report, RunRecord, check_page, read_record, write_report
from fairtat.evaluation.text.export import check_export, export_classes
from fairtat.evaluation.text.table import groups_table

PLACES = (f"{EVALUATION}/*.json", "test.json", "val.json", "all.json")
"""Where a folder has its evaluations: a run's, or that of a model from elsewhere."""


def parser() -> jsonargparse.ArgumentParser:
    """Arguments and help of the subcommand."""
    parser = Parser(
        "report",
        "Make a page of evaluations that `fairtat evaluate` has saved, even without the models: every class with\n"
        "its interval, which classes are taken for which, findings and settings. Several evaluations stand side by\n"
        "side; differences are against the first one, image by image. Nothing is computed anew, no model is read.",
        "  fairtat report evaluations/wrn-cifar10/test.json --output wrn.html\n"
        "  fairtat report runs/at/evaluation/test.json runs/fairtat/evaluation/test.json --output page.html\n"
        "  fairtat report a.json b.json --names 'TRADES,TRADES + FAIR-TAT' --output page.html",
    )
    parser.add_argument(
        "evaluations", type=str, nargs="+", help=".json files with their .npz files beside them, the baseline first"
    )
    parser.add_argument(
        "--output",
        type=str,
        default="report.html",
        help="the page (.html), with its figures in the .json file beside it; or a .json file for the figures alone",
    )
    parser.add_argument(
        "--names", type=str | None, help="what the page calls the evaluations, separated by commas; by default folders"
    )
    parser.add_argument("--groups", type=str | None, help=GROUPS_HELP)
    parser.add_argument(
        "--export",
        type=str | None,
        help="also the figures of every class as a table: .csv, .parquet, or .tex for LaTeX",
    )
    return parser


def run(options: jsonargparse.Namespace) -> int:
    """Write the page."""
    output = Path(options.output)
    check_page(output)
    if options.export is not None:
        check_export(Path(options.export))
    paths = [Path(path) for path in options.evaluations]
    for path in paths:
        _check(path, output)
    names = evaluation_names(paths)
    if options.names is not None:
        names = comma_separated(options.names)
        if len(names) != len(paths) or len(set(names)) < len(names):
            raise UserError(f"--names is {options.names!r}; expected {len(paths)} different names, one for each file")
    records = [_record(path, name) for path, name in zip(paths, names, strict=True)]
    first = records[0].evaluation
    assert first.samples is not None
    groupings = []
    if options.groups is not None:
        groupings = read_groups(options.groups, first.class_names, first.samples.label, first.samples.sample_ids)
    report = Report(records, groupings=groupings)
    console = Console(highlight=False, markup=False)
    for story in report.stories:
        for sentence in story.plain:
            console.print(sentence, soft_wrap=True)
    for grouping in groupings:
        for record in records:
            console.print(f"\n{record.name}", style="bold")
            console.print(groups_table(record.evaluation, grouping))
    written = write_report(report, output)
    if options.export is not None:
        written.append(export_classes({record.name: record.evaluation for record in report.records}, options.export))
    for file in written:
        console.print(f"written: {file}", soft_wrap=True)
    return 0


def _check(path: Path, output: Path) -> None:
    """Refuse a file that is not an evaluation's, and an output in whose place an evaluation lies."""
    if path.is_dir():
        found = next((each for pattern in PLACES for each in sorted(path.glob(pattern))), None)
        raise UserError(
            f"{path}: is a folder; expected an evaluation's .json file"
            + ("; `fairtat evaluate` writes one" if found is None else f", such as {found}")
        )
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected the .json file that `fairtat evaluate` writes")
    if path.suffix != ".json":
        raise UserError(f"{path}: is not a .json file; expected the one that `fairtat evaluate` writes")
    if output.with_suffix(".json").resolve() == path.resolve():
        raise UserError(f"--output {output} would write its figures over {path}; choose another name")


def _record(path: Path, name: str) -> RunRecord:
    if not path.with_suffix(".npz").is_file():
        raise UserError(f"{path}: its per-sample outcomes are missing; expected {path.with_suffix('.npz')} beside it")
    evaluation = Evaluation.load(path)
    if not evaluation.attacks:
        raise UserError(f"{path}: holds no attack, only clean and corrupted images; a page is of robust accuracy")
    folder = next((parent.parent for parent in path.resolve().parents if parent.name == EVALUATION), None)
    return RunRecord(name, evaluation) if folder is None else read_record(folder, name, evaluation)
