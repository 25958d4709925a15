"""``fairtat study``: several ways of training compared over seeds and radii, from one file."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import jsonargparse
from rich.console import Console
from rich.table import Table

from fairtat.cli.parser import Parser
from fairtat.errors import UserError
from fairtat.study import Results, Study, contrast_outcomes, emit_slurm, load_study, run_cells, state_of, write_report
from fairtat.study.report import sentence
from fairtat.study.submit import submitting
from fairtat.training.run.lock import run_lock

ACTIONS = {
    "plan": "check the file, list its models, and say what each has come to; trains nothing",
    "run": "train and judge what is missing, then report; call it again after Ctrl-C or a failure",
    "report": "report from the results file alone",
    "slurm": "print an array job with a task per model",
}


def parser() -> jsonargparse.ArgumentParser:
    """Arguments and help of the subcommand."""
    actions = "\n".join(f"  {name:<7} {text}" for name, text in ACTIONS.items())
    parser = Parser(
        "study",
        "Compare ways of training fairly: every arm with the same seeds, judged by the same attacks at one radius, at\n"
        "equal clean accuracy or equal mean radius where an arm is a curve. Contrasts are declared in the file, the\n"
        "primary one first; intervals resample seeds and test images together, and p-values are Holm's.\n"
        f"\nactions:\n{actions}\n\n"
        "file:\n"
        "  configs: [configs/digits.yaml]       # settings of all arms, as `fairtat train --config`\n"
        "  seeds: 5\n"
        "  judge: {attacks: 'pgd-20,cw-20', eps: 0.15}    # also corruptions, severities and subset\n"
        "  arms:\n"
        "    at: {title: AT, eps_factors: [0.75, 1, 1.25]}\n"
        "    fairtat: {title: FAIR-TAT, configs: configs/methods/fairtat.yaml}\n"
        "  contrasts:\n"
        "    - {arm: fairtat, against: at, figure: robust worst, equal: clean accuracy}\n"
        "  margin: 1                            # points within which two arms count as equivalent",
        "  fairtat study plan study.yaml\n  fairtat study run study.yaml --jobs 2\n  fairtat study report study.yaml",
    )
    parser.add_argument("action", choices=tuple(ACTIONS), help="what to do")
    parser.add_argument("file", type=str, help="the study's YAML file")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time; the file's `threads` is per model")
    parser.add_argument("--runs", type=str | None, help="folder of the models; by default runs/STUDY")
    parser.add_argument("--results", type=str | None, help="results file; by default FILE-results.json beside the file")
    parser.add_argument(
        "--output", type=str | None, help="folder of the report; by default FILE-report beside the file"
    )
    parser.add_argument(
        "--submit", type=dict | None,
        help="run: models as jobs of a cluster through submitit, --jobs at a time, with these parameters, such as "
        "'{timeout_min: 600, slurm_partition: gpu, slurm_gpus_per_task: 1}'",
    )  # fmt: skip
    parser.add_argument("--cell", type=int | None, help="run: this model alone (a number of `plan`), and no report")
    parser.add_trust_model()
    return parser


def run(options: jsonargparse.Namespace) -> int:
    """Plan, run or report a study."""
    if options.jobs < 1:
        raise UserError(f"--jobs must be at least 1, got {options.jobs}")
    study = load_study(options.file)
    runs = Path(options.runs or Path("runs", study.name))
    cells = study.cells()
    if options.cell is not None and not 0 <= options.cell < len(cells):
        raise UserError(f"--cell must be in [0, {len(cells) - 1}], got {options.cell}")
    if options.action == "slurm":
        given = [("--runs", options.runs), ("--results", options.results), ("--output", options.output)]
        words = [word for name, value in given if value is not None for word in (name, value)]
        print(emit_slurm(study, [*words, *(["--trust_model"] if options.trust_model else [])]), end="")
        return 0
    console = Console(highlight=False, markup=False)
    results = Results(study, Path(options.results or study.path.with_name(f"{study.path.stem}-results.json")))
    if options.action == "plan":
        _print_plan(console, study, results, runs)
        return 0
    if options.action == "report":
        return _report(console, study, results, options.output)

    def say(line: str) -> None:
        console.print(line, soft_wrap=True)

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    runs.mkdir(parents=True, exist_ok=True)
    if options.cell is not None:
        # Other cells may run beside it, so the results file stays as it is: `fairtat study run` collects.
        failed = run_cells(study, [cells[options.cell]], runs, None, 1, say=say, trust_model=options.trust_model)
        return 1 if failed else 0
    start = None if options.submit is None else submitting(runs / ".submitit", options.submit)
    with run_lock(runs):
        failed = run_cells(
            study, cells, runs, results, options.jobs, say=say, trust_model=options.trust_model, start=start
        )
    code = _report(console, study, results, options.output) if results.entries() else 0
    if failed:
        print(f"failed: {', '.join(failed)}; call it again to try them again", file=sys.stderr)
    return 1 if failed else code


def _report(console: Console, study: Study, results: Results, output: str | None) -> int:
    paths = write_report(results, Path(output or study.path.with_name(f"{study.path.stem}-report")))
    for number, outcome in enumerate(contrast_outcomes(results)):
        console.print(sentence(study, outcome, number), soft_wrap=True)
    for path in paths:
        console.print(f"written: {path}", soft_wrap=True)
    return 0


def _print_plan(console: Console, study: Study, results: Results, runs: Path) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("number", "model", "radius", "epochs", "state"):
        table.add_column(name, justify="right" if name in ("number", "radius", "epochs") else "left")
    cells = study.cells()
    for number, cell in enumerate(cells):
        state = "in the results" if cell in results else state_of(study, cell, runs / cell.name)
        table.add_row(str(number), cell.name, f"{float(cell.config.attack.eps):.4g}", str(cell.config.epochs), state)
    console.print(table)
    seconds = [entry.values["seconds"] for entry in results.entries()]
    left = sum(cell not in results for cell in cells)
    cost = (
        f", about {sum(seconds) / len(seconds) * left / 3600:.1f} hours of training one after another"
        if seconds
        else ""
    )
    console.print(f"{len(cells)} models, {left} to make{cost}; {len(study.contrasts)} contrasts", soft_wrap=True)
