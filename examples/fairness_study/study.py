"""Average and worst-class accuracy of five methods over several seeds: trains, evaluates, collects and reports.

    python examples/fairness_study/study.py --data mnist5k --seeds 5 --jobs 2

Stop it with Ctrl-C and call it again: it goes on where it was. Options after ``--`` go to every training run:

    python examples/fairness_study/study.py --data mnist5k -- --attack.engine compiled
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import study_report
from study_runs import CHECKPOINT, METHODS, PRESETS, Run, check_same, plan, settings_of, work_off

from fairtat.errors import UserError
from fairtat.evaluation import ClassFigures, Evaluation
from fairtat.files import write_atomic, write_json
from fairtat.training.api import stored_config
from fairtat.training.run.lock import run_lock

HERE = Path(__file__).resolve().parent
FORMAT = 1
INTERRUPTED = 130


class Results:
    """The file results/DATA.json: what each run found, and all that is needed to find it again."""

    def __init__(self, path: Path, data: str) -> None:
        empty = {"format": FORMAT, "data": data, "checkpoint": CHECKPOINT, "settings": {}, "runs": []}
        self.path = path
        self.content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else empty
        if self.content.get("format") != FORMAT:
            raise UserError(f"{path}: not a result of format {FORMAT}; remove it or choose another --results")

    def check(self, runs: Sequence[Run]) -> None:
        """Refuse runs that differ in more than their seed from those of the same method in the file."""
        for run in runs:
            stored = self.content["settings"].get(run.method, {})
            where = f"{self.path}, {run.method}"
            check_same(where, stored, settings_of(run.config), "remove it or choose another --results")

    def add(self, run: Run) -> dict[str, Any]:
        """Put the run's figures in the place of those of the same method and seed, and write the file."""
        evaluation = run.evaluation()
        assert evaluation is not None
        entry = entry_of(run, evaluation)
        others = [e for e in self.content["runs"] if (e["method"], e["seed"]) != (run.method, run.seed)]
        self.content["runs"] = sorted([*others, entry], key=lambda e: (METHODS.index(e["method"]), e["seed"]))
        self.content["settings"][run.method] = settings_of(run.config)
        self.content["attack"] = {"title": str(evaluation.attack), **evaluation.attack.to_dict()}
        self.content["class_names"] = list(evaluation.class_names)
        self.content["class_sizes"] = evaluation.clean.n
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.content)
        return entry


def entry_of(run: Run, evaluation: Evaluation) -> dict[str, Any]:
    """A run's figures as JSON values, with what it was computed by, when, and for how long."""
    environment = json.loads((run.folder / "environment.json").read_text(encoding="utf-8"))
    epochs = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]

    def figures(of: ClassFigures) -> dict[str, Any]:
        worst, value = of.worst
        return {
            "average": of.average,
            "worst": {"name": evaluation.class_names[worst], "value": value},
            "worst_fifth": of.worst_fifth,
            "std": of.std,
            "per_class": of.accuracy,
        }

    return {
        "method": run.method,
        "seed": run.seed,
        "clean": figures(evaluation.clean),
        "robust": figures(evaluation.robust),
        "findings": [finding.id for finding in evaluation.findings if finding.severity != "info"],
        "epochs": run.config.epochs,
        "train_seconds": round(sum(line["seconds"] for line in epochs), 1),
        "engine": stored_config(run.folder).attack.engine,
        **{key: environment[key] for key in ("device", "threads", "fairtat", "torch", "python")},
        "commit": environment["git_commit"],
        "date": environment["started"],
    }


class Progress:
    """One line for every finished run, with the time that is left."""

    def __init__(self, total: int, results: Results) -> None:
        self.left, self.total, self.results = total, total, results
        self.began, self.computed = time.monotonic(), 0
        self.failures: list[str] = []

    def done(self, run: Run, computed: bool) -> None:
        entry = self.results.add(run)
        self.computed += computed
        robust = entry["robust"]
        figures = f"robust average {robust['average']:.1%}, worst {robust['worst']['value']:.1%}"
        self._line(f"{run.name:<11} {figures}, {entry['train_seconds']:.0f} s" + ("" if computed else ", was there"))

    def failed(self, run: Run, reason: str) -> None:
        self.failures.append(run.name)
        self._line(f"{run.name:<11} failed: {reason}")

    def _line(self, text: str) -> None:
        self.left -= 1
        if self.left and self.computed:
            seconds = (time.monotonic() - self.began) / self.computed * self.left
            text += f"; about {seconds / 60:.0f} min left"
        print(f"[{self.total - self.left}/{self.total}] {text}", flush=True)


def report(results: Mapping[str, Any], folder: Path) -> None:
    """Rewrite the data set's part of README.md and its figure in ``folder``."""
    readme, figure = folder / "README.md", folder / f"{results['data']}.png"
    text = readme.read_text(encoding="utf-8") if readme.exists() else study_report.empty_block(results["data"])
    try:
        text = study_report.replaced(text, results["data"], study_report.markdown(results))
    except ValueError as error:
        raise UserError(f"{readme}: {error}") from error
    picture = study_report.png(results)
    write_atomic(figure, lambda stream: stream.write(picture))
    write_atomic(readme, lambda stream: stream.write(text.encode()))
    print(f"written: {readme} and {figure}")


def _arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=PRESETS, required=True)
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="seeds 0 to N-1 of every method (default: 5)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (default: 1)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, metavar="METHOD", help="default: all")
    parser.add_argument("--epochs", type=int, metavar="N", help="for a trial; DAFA and CFA begin late in their presets")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads of each run (default: 1)")
    parser.add_argument("--runs", type=Path, metavar="DIR", help="folder of the runs (default: runs/study/DATA)")
    parser.add_argument("--results", type=Path, default=HERE, metavar="DIR",
                        help="folder of README.md, results/DATA.json and DATA.png (default: the script's)")  # fmt: skip
    parser.add_argument("--report", action="store_true", help="train nothing: table and figure from results/DATA.json")
    arguments = parser.parse_args(words)
    for name in ("seeds", "jobs", "threads"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(arguments, name)}")
    return arguments


def run_study(arguments: argparse.Namespace, options: Sequence[str]) -> int:
    """Train and evaluate what is missing, then report; the exit code is 1 if a run failed."""
    data = arguments.data
    results = Results(arguments.results / "results" / f"{data}.json", data)
    if arguments.report:
        if not results.content["runs"]:
            raise UserError(f"{results.path}: holds no run yet; leave --report out to make them")
        report(results.content, arguments.results)
        return 0
    folder = arguments.runs or Path("runs", "study", data)
    runs = plan(data, arguments.methods, arguments.seeds, folder, arguments.threads, arguments.epochs, options)
    results.check(runs)
    folder.mkdir(parents=True, exist_ok=True)
    progress = Progress(len(runs), results)
    with run_lock(folder):
        work_off(runs, arguments.jobs, done=progress.done, failed=progress.failed)
    if results.content["runs"]:
        report(results.content, arguments.results)
    if progress.failures:
        print(f"failed: {', '.join(progress.failures)}; call it again to try them again", file=sys.stderr)
    return 1 if progress.failures else 0


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    split = words.index("--") if "--" in words else len(words)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return run_study(_arguments(words[:split]), words[split + 1 :])
    except KeyboardInterrupt:
        print("interrupted; call it again to go on", file=sys.stderr)
        return INTERRUPTED
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
