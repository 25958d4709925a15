"""``fairtat compare RUN RUN``: which classes gained and which lost, as a table, a page or a picture."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonargparse
from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from fairtat.cli.jobs.runs import (
    AttackArguments,
    EvaluationOptions,
    Job,
    answers_line,
    examine,
    job_of_run,
    shortest_ends,
)
from fairtat.cli.parser import Parser, comma_separated, number
from fairtat.devices import resolve_device
from fairtat.errors import UserError
from fairtat.evaluation import Comparison, Defaults, Evaluation
from fairtat.evaluation.compare import check_same_images
from fairtat.evaluation.report import (
    REPORT_FILES,
    Report,
    check_page,
    is_page,
    make_gallery,
    read_record,
    write_report,
)
from fairtat.evaluation.text.table import comparison_table, tables
from fairtat.files import write_atomic
from fairtat.study.report import contrasts_table, sentence
from fairtat.study.sets import outcome_dict, set_outcomes, sets_of
from fairtat.training import Run, load_run
from fairtat.training.config import TrainConfig

SETS_FILE = "sets.json"
SWEEP = (0.25, 0.5, 1.0, 1.5)
"""Radii of a report's accuracy curves, as shares of the attack's."""


@dataclass
class CompareOptions(EvaluationOptions):
    """Options of `fairtat compare`."""

    output: str | None = None
    """Where to write: a file ending in .html for a page (class-wise bars, accuracy against the radius, confusions,
    training curves, a few attacked images, all settings) with its figures in the .json file beside it; one ending in
    .json for the figures alone; else a folder for compare.png and compare.json. By default the folder comparison. One
    run is enough for a file."""

    out: str | None = None
    """The former name of --output FILE; removed in the next release."""

    eps_sweep: str | None = None
    """Radii of the main attack for accuracy curves, separated by commas, or none; by default 1/4, 1/2, 1 and 3/2 of its
    radius with a page or its figures, else none."""

    targeted: str | None = None
    """Also attack every image towards every other class, with pgd or cw-20, ...: which classes can be turned into
    which."""

    figures: str = "robust worst,robust average,clean average"
    """With --seeds: what the sets are compared in, the primary figure first: a condition (clean, robust, or an attack)
    and average, worst, worst_fifth, gap, std or gini."""

    images: int = 6
    """Attacked images in the page."""


def parser() -> jsonargparse.ArgumentParser:
    """Arguments and help of the subcommand."""
    parser = Parser(
        "compare",
        "Compare runs class by class under one attack; differences are against the first run.\n"
        "A run that has no evaluation with these settings yet is evaluated first. Prints a table and which classes\n"
        "gained and lost; writes a page to share (--output report.html), or a folder with a bar chart and figures.",
        "  fairtat compare runs/at runs/fairtat --output report.html\n"
        "  fairtat compare runs/at runs/trades runs/fairtat --attack.eps 8/255 --output figures\n"
        "  fairtat compare runs/fairtat --output fairtat.html --attacks pgd-20,cw-20 --targeted pgd\n"
        "  fairtat compare runs/at-* runs/fairtat-* --seeds",
    )
    parser.add_argument("runs", type=str, nargs="+", help="run folders, the baseline first")
    parser.add_trust_model()
    parser.add_argument(
        "--seeds",
        action="store_true",
        help="Compare sets of runs instead of runs: those with the same settings but for the seed are a set, the first "
        "one is the baseline, and runs of one seed are a pair. Seeds and images are resampled together; p-values are "
        "Holm's over --figures and sets.",
    )
    parser.add_class_arguments(CompareOptions, sub_configs=False)
    return parser


def run(options: jsonargparse.Namespace) -> int:
    """Compare runs."""
    folder, file = _outputs(options)
    _check(options, folder, file)
    names = display_names(options.runs)
    if options.seeds and file is not None and is_page(file):
        raise UserError(f"--seeds writes no page, got --output {file}; expected a folder or a .json file")
    device, checkpoint = resolve_device(options.device), options.checkpoint
    runs = {
        name: load_run(path, device=device, weights=checkpoint, trust_model=options.trust_model)
        for name, path in zip(names, options.runs, strict=True)
    }
    sets = sets_of({name: run.config for name, run in runs.items()}) if options.seeds else {}
    jobs = {name: job_of_run(run, options.split, checkpoint) for name, run in runs.items()}
    first, *others = [
        (name, each.data.class_names, each.data.ids.cpu().numpy(), each.data.labels.cpu().numpy())
        for name, each in jobs.items()
    ]
    for other in others:
        check_same_images(first, other)
    attacks = comma_separated(options.attacks)
    defaults = AttackArguments.parsed(options.attack).defaults(jobs[names[0]], attacks, options.active_set)
    questions = _questions(options, defaults, paged=file is not None)
    notes = _differences(runs)
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)
    evaluations = {name: _evaluation(name, job, defaults, questions, options) for name, job in jobs.items()}

    console = Console(highlight=False, markup=False)
    if sets:
        by_set = {
            title: [(runs[name].config, evaluations[name]) for name in members] for title, members in sets.items()
        }
        return _compare_sets(console, by_set, comma_separated(options.figures), file or (folder or Path()) / SETS_FILE)
    comparison = Comparison(evaluations) if len(evaluations) > 1 else None
    if comparison is None:
        for table in tables(evaluations[names[0]]):
            console.print(table)
    else:
        _print_comparison(console, comparison)
    console.print()
    for name, evaluation in evaluations.items():
        console.print(f"{name}: {answers_line(evaluation)}", soft_wrap=True)
    written: list[Path] = []
    if comparison is not None and folder is not None:
        written += _write_folder(comparison, folder)
    if file is not None:
        written += _write_file(file, options, jobs, evaluations, notes)
    for path in written:
        console.print(f"written: {path}", soft_wrap=True)
    return 0


def display_names(paths: list[str]) -> list[str]:
    """The shortest ends of the folders' paths that tell them apart: mostly the last component."""
    parts = [Path(path).resolve().parts for path in paths]
    if len(set(parts)) < len(parts):
        raise UserError("compare needs different runs, but the same folder is given twice")
    return shortest_ends(parts)


def _outputs(options: jsonargparse.Namespace) -> tuple[Path | None, Path | None]:
    """The folder and the file to write; ``--out`` names a file beside what ``--output`` names."""
    folder, file = None, None
    if options.out is not None:
        print("warning: --out is now --output; the old name goes with the next release", file=sys.stderr)
        file = Path(options.out)
        if file.suffix.lower() not in REPORT_FILES:
            raise UserError(f"--out is {options.out!r}; expected a file that ends in .html")
    if options.output is not None and Path(options.output).suffix.lower() in REPORT_FILES:
        file = Path(options.output)
    elif options.output is not None:
        folder = Path(options.output)
    if folder is None and file is None:
        folder = Path("comparison")
    return folder, file


def _check(options: jsonargparse.Namespace, folder: Path | None, file: Path | None) -> None:
    """Find the mistakes that would otherwise fail only after minutes of work."""
    if len(options.runs) < 2 and folder is not None:
        raise UserError("compare needs at least two runs, got 1; one is enough for a page: --output FILE.html")
    if file is not None:
        check_page(file, options.images)


def _questions(options: jsonargparse.Namespace, defaults: Defaults, *, paged: bool) -> dict[str, Any]:
    attacks = comma_separated(options.attacks)
    asked = comma_separated(options.eps_sweep)
    if asked == ["none"] or (options.eps_sweep is None and not paged):
        sweep: list[float] = []
    elif options.eps_sweep is None:
        sweep = [share * defaults.eps for share in SWEEP]
    else:
        sweep = [number("eps_sweep", text) for text in asked]
    return {
        "attacks": attacks,
        "eps_sweep": sweep,
        "targeted": options.targeted or False,
        # A page is shared: doubts about its figures must be on it.
        "check_sanity": paged,
    }


def _evaluation(
    name: str, job: Job, defaults: Defaults, questions: dict[str, Any], options: jsonargparse.Namespace
) -> Evaluation:
    def announce() -> None:
        print(f"{name}: evaluating ({', '.join(questions['attacks'])} on the {job.split} split)", file=sys.stderr)

    return examine(job, defaults, options, on_work=announce, **questions)


def _differences(runs: dict[str, Run]) -> list[str]:
    """What makes runs hard to compare, one sentence for each."""
    found = []
    trained_with = {name: f"{run.config.attack.norm}, eps {run.config.attack.eps}" for name, run in runs.items()}
    if len(set(trained_with.values())) > 1:
        found.append(f"trained with different radii ({_listed(trained_with)}); all are attacked with the same one")
    trained_for = {name: f"{run.epoch} of {run.config.epochs} epochs" for name, run in runs.items()}
    if len(set(trained_for.values())) > 1:
        found.append(f"trained for different times ({_listed(trained_for)})")
    return found


def _listed(values: dict[str, str]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in values.items())


def _print_comparison(console: Console, comparison: Comparison) -> None:
    console.print(comparison_table(comparison))
    for name in comparison.names[1:]:
        console.print(f"\n{name} against {comparison.names[0]}, robust accuracy in points:", style="bold")
        for line in comparison.summary(name):
            console.print(Padding(line, (0, 0, 0, 2), expand=False))


def _compare_sets(
    console: Console, sets: dict[str, list[tuple[TrainConfig, Evaluation]]], figures: list[str], file: Path
) -> int:
    found, outcomes = set_outcomes(sets, figures)
    table = contrasts_table(found.study, outcomes)
    shown = Table(box=None, pad_edge=False, title="Sets of runs, paired by seed", title_justify="left")
    wanted = [k for k, head in enumerate(table.head) if head != "equal"]  # runs of one seed, all of them
    for k in wanted:
        shown.add_column(table.head[k], justify="left" if k < 4 else "right")
    for row in table.rows:
        shown.add_row(*(row[k] for k in wanted))
    console.print(shown)
    for place, outcome in enumerate(outcomes):
        console.print(sentence(found.study, outcome, place, "runs of one seed paired"), soft_wrap=True)
    values = {
        "format": 1,
        "sets": {title: [config.seed for config, _ in members] for title, members in sets.items()},
        "contrasts": [outcome_dict(outcome, found.study) for outcome in outcomes],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(values, indent=1, allow_nan=False) + "\n"
    write_atomic(file, lambda stream: stream.write(text.encode()))
    console.print(f"written: {file}", soft_wrap=True)
    return 0


def _write_file(
    file: Path,
    options: jsonargparse.Namespace,
    jobs: dict[str, Job],
    evaluations: dict[str, Evaluation],
    notes: list[str],
) -> list[Path]:
    gallery = None
    if options.images and is_page(file):
        models = {name: job.model for name, job in jobs.items()}
        data = next(iter(jobs.values())).data
        gallery = make_gallery(models, data, evaluations, count=options.images)
    paths = dict(zip(evaluations, options.runs, strict=True))
    records = [read_record(paths[name], name, evaluation) for name, evaluation in evaluations.items()]
    report = Report(records, gallery=gallery, notes=[f"{note[0].upper()}{note[1:]}." for note in notes])
    return write_report(report, file)


def _write_folder(comparison: Comparison, folder: Path) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(comparison.to_dict(), indent=1, allow_nan=False) + "\n"
    write_atomic(folder / "compare.json", lambda file: file.write(text.encode()))
    written = [folder / "compare.json"]
    try:
        from fairtat.evaluation.report.plot import comparison_png

        picture = comparison_png(comparison)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "matplotlib":
            raise
        print("no compare.png: it needs matplotlib (pip install 'fairtat[eval]')", file=sys.stderr)
    else:
        write_atomic(folder / "compare.png", lambda file: file.write(picture))
        written.insert(0, folder / "compare.png")
    return written
