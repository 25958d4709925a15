"""The command line that every benchmark script has."""

from __future__ import annotations

import argparse
import fnmatch
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from harness import environment
from harness.case import Benchmark, CaseSpec, Settings
from harness.report import FORMAT, RESULTS, console, result_path, show_case, write_json
from harness.runner import Effort, run_case

QUICK = Effort(budget=0.0, min_rounds=2, max_rounds=2, sample_seconds=0.0)

_HOW = """
How it works:
  Every contestant first computes its answer from the same input. If two disagree, the script stops with a
  message and times nothing. Then each round runs every contestant once, in rotating order, and ratios are
  taken within rounds: times drift on a shared machine, ratios far less. A ratio is how many times as long as
  the baseline a contestant takes, with the quartiles over the rounds. Targets are stated as met or not met.

Examples:
  python benchmarks/{script} --list                    what it measures
  python benchmarks/{script} --only '{example}'
  python benchmarks/{script} --quick                   does it run at all? figures mean nothing, nothing is written
  python benchmarks/{script} --skip 'torch.compile*' --budget 5
"""


def parser(benchmark: Benchmark) -> argparse.ArgumentParser:
    script = f"bench_{benchmark.name}.py"
    made = argparse.ArgumentParser(
        prog=script,
        description=benchmark.question + ("\n\n" + benchmark.reading if benchmark.reading else ""),
        epilog=_HOW.format(script=script, example=benchmark.cases[0].name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--list", action="store_true", help="print the names of the cases and leave")
    made.add_argument("--only", action="append", metavar="GLOB", help="run the cases whose name matches; repeatable")
    made.add_argument(
        "--skip", action="append", default=[], metavar="GLOB", help="leave out the contestants that match; repeatable"
    )
    made.add_argument("--quick", action="store_true", help="a smoke run of a few small cases, two rounds each")
    made.add_argument("--threads", type=int, metavar="N", help="PyTorch's and fairtat's threads (default: PyTorch's)")
    made.add_argument("--budget", type=float, default=10.0, metavar="S", help="seconds a case (default: %(default)g)")
    made.add_argument(
        "--min-rounds", type=int, default=7, metavar="N", help="whatever they cost (default: %(default)s)"
    )
    made.add_argument(
        "--output", type=Path, metavar="DIR",
        help=f"folder for {benchmark.name}-cpu.json (default: benchmarks/results for a whole run; what --quick, "
        "--only or --skip leaves incomplete is written only where this says)",
    )  # fmt: skip
    return made


def main(benchmark: Benchmark, argv: Sequence[str] | None = None) -> int:
    """Run a benchmark script; SystemExit with a message if contestants disagree."""
    made = parser(benchmark)
    arguments = made.parse_args(argv)
    if arguments.threads is not None and arguments.threads < 1:
        made.error(f"--threads must be at least 1, got {arguments.threads}")
    if arguments.min_rounds < 1:
        made.error(f"--min-rounds must be at least 1, got {arguments.min_rounds}")
    specs = select(benchmark, arguments.only, arguments.quick)
    if not specs:
        made.error(f"no case matches {' or '.join(arguments.only)}; --list shows them")
    if arguments.list:
        for spec in specs:
            print(spec.name)
        return 0
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    effort = Effort(arguments.budget, arguments.min_rounds, max_rounds=200, sample_seconds=1e-3)
    effort = QUICK if arguments.quick else effort
    settings = Settings(quick=arguments.quick)

    out = console()
    machine = environment.describe()
    out.print(f"[bold]{benchmark.name}[/]: {benchmark.question}")
    out.print(
        f"{machine['cpu']}, {machine['threads']} of {machine['cores']} cores, {machine['isa']}; torch "
        f"{machine['torch']}, fairtat {machine['fairtat']} at {machine['commit']}; copy {machine['copy_gb_per_s']} GB/s"
    )
    if machine["load_average"] > 0.5 * (os.cpu_count() or 1):
        out.print(f"[yellow]The machine is busy (load {machine['load_average']}): repeat this when it is quiet.[/]")
    out.print()
    cases = []
    for spec in specs:
        cases.append(run_case(spec, settings, effort, arguments.skip))
        show_case(out, cases[-1])

    whole = not (arguments.quick or arguments.only or arguments.skip)
    folder = arguments.output or (RESULTS if whole else None)
    if folder is not None:
        path = result_path(folder, benchmark.name)
        write_json(
            path,
            {
                "format": FORMAT,
                "benchmark": benchmark.name,
                "question": benchmark.question,
                "device": "cpu",
                "quick": arguments.quick,
                "environment": machine,
                "effort": asdict(effort),
                "settings": benchmark.settings,
                "cases": cases,
            },
        )
        out.print(f"wrote {path}")
    return 0


def select(benchmark: Benchmark, only: Sequence[str] | None, quick: bool) -> list[CaseSpec]:
    """The cases to run: all, those of a smoke run, or those that are named."""
    if only:
        return [s for s in benchmark.cases if any(s.name == p or fnmatch.fnmatchcase(s.name, p) for p in only)]
    return [s for s in benchmark.cases if s.quick or not quick]
