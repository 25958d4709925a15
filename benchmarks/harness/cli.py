"""The command line that every benchmark script has."""

from __future__ import annotations

import argparse
import fnmatch
import os
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from harness import environment
from harness.case import Benchmark, CaseSpec, Device, Settings, Unavailable
from harness.report import FORMAT, RESULTS, result_path, show_case, write_json
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
  python benchmarks/{script} --device cuda            the cases of a GPU: CUDA graphs timed by events
  python benchmarks/{script} --device cuda --rehearse these cases on a CPU, small: do they run?
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
    made.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="whose cases to measure (default: %(default)s)"
    )
    made.add_argument(
        "--rehearse", action="store_true", help="run a GPU's cases on the CPU, with small inputs, as --quick does"
    )
    made.add_argument(
        "--keep-going", action="store_true",
        help="a contestant that fails or disagrees leaves its case with a remark; the exit code is 1",
    )  # fmt: skip
    made.add_argument("--threads", type=int, metavar="N", help="PyTorch's and fairtat's threads (default: PyTorch's)")
    made.add_argument("--budget", type=float, default=10.0, metavar="S", help="seconds a case (default: %(default)g)")
    made.add_argument(
        "--min-rounds", type=int, default=7, metavar="N", help="whatever they cost (default: %(default)s)"
    )
    made.add_argument(
        "--output", type=Path, metavar="DIR",
        help=f"folder for {benchmark.name}-DEVICE.json (default: benchmarks/results for a whole run; what --quick, "
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
    quick = arguments.quick or arguments.rehearse
    specs = select(benchmark, arguments.only, quick, arguments.device)
    if not specs and arguments.only:
        made.error(f"no case matches {' or '.join(arguments.only)}; --list shows them")
    if not specs:
        print(f"{benchmark.name}: there are no cases for {'a GPU' if arguments.device == 'cuda' else 'a CPU'}")
        return 0
    if arguments.list:
        for spec in specs:
            print(spec.name)
        return 0
    device: Device = "cpu" if arguments.rehearse else arguments.device
    if device == "cuda" and not torch.cuda.is_available():
        made.error("--device cuda needs a GPU that PyTorch can use; --rehearse runs its cases on the CPU")
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    effort = Effort(arguments.budget, arguments.min_rounds, max_rounds=200, sample_seconds=1e-3)
    effort = QUICK if quick else effort
    settings = Settings(quick=quick, device=device, rehearsal=arguments.rehearse)
    whole = not (quick or arguments.only or arguments.skip)
    folder = arguments.output or (RESULTS if whole else None)
    path = None if folder is None else result_path(folder, benchmark.name, arguments.device)

    machine = environment.describe(device)
    show_header(benchmark, machine, device)
    cases: list[dict[str, Any]] = []
    for spec in specs:
        try:
            cases.append(run_case(spec, settings, effort, arguments.skip, keep_going=arguments.keep_going))
        except (ModuleNotFoundError, Unavailable) as error:
            if not arguments.keep_going:
                raise
            cases.append({"name": spec.name, "headline": spec.headline, "missing": str(error)})
            print(f"{spec.name}: left out: {error}\n", flush=True)
        except Exception as error:
            if not arguments.keep_going:
                raise
            traceback.print_exc()
            cases.append({"name": spec.name, "headline": spec.headline, "failed": f"{type(error).__name__}: {error}"})
        else:
            show_case(cases[-1])
        # A run that keeps going may be cut off, and what it has measured is to be kept.
        if path is not None and (arguments.keep_going or spec is specs[-1]):
            write_json(
                path,
                {
                    "format": FORMAT,
                    "benchmark": benchmark.name,
                    "question": benchmark.question,
                    "device": arguments.device,
                    "quick": quick,
                    "environment": machine,
                    "effort": asdict(effort),
                    "settings": benchmark.settings,
                    "cases": cases,
                },
            )
    if path is not None:
        print(f"wrote {path}")
    return 1 if any(failures(case) for case in cases) else 0


def failures(case: Mapping[str, Any]) -> list[str]:
    """What went wrong in a case that was told to keep going."""
    if "failed" in case:
        return [f"{case['name']}: {case['failed']}"]
    rows = case.get("contestants", ())
    return [f"{case['name']}: {row['name']}: {row['failed']}" for row in rows if "failed" in row]


def show_header(benchmark: Benchmark, machine: Mapping[str, Any], device: Device) -> None:
    print(f"{benchmark.name}: {benchmark.question}")
    chip = (
        f"{machine['gpu']}, driver {machine['driver']}"
        if device == "cuda"
        else f"{machine['cpu']}, {machine['threads']} of {machine['cores']} cores, {machine['isa']}"
    )
    print(
        f"{chip}; torch {machine['torch']}, fairtat {machine['fairtat']} at {machine['commit']}; "
        f"copy {machine['copy_gb_per_s']} GB/s"
    )
    if device == "cpu" and machine["load_average"] > 0.5 * (os.cpu_count() or 1):
        print(f"The machine is busy (load {machine['load_average']}): repeat this when it is quiet.")
    print(flush=True)


def select(benchmark: Benchmark, only: Sequence[str] | None, quick: bool, device: Device = "cpu") -> list[CaseSpec]:
    """The device's cases to run: all, those of a smoke run, or those that are named."""
    cases = [s for s in benchmark.cases if s.device == device]
    if only:
        return [s for s in cases if any(s.name == p or fnmatch.fnmatchcase(s.name, p) for p in only)]
    return [s for s in cases if s.quick or not quick]
