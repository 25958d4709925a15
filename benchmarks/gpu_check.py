"""The whole proof on a GPU in one command, within a deadline of nine minutes and without a network.

Builds and installs fairtat into the environment of --python (which needs PyTorch with its GPU, nvcc, cmake, ninja,
pybind11, setuptools and pytest, and nothing else), runs every test marked gpu, compute-sanitizer over each kernel, and
every GPU benchmark; writes OUT/<device>-<date>.json after each phase, and at the end the GPU tables of
docs/performance.md and the order behind backend="auto".

Each phase is a process with a time limit under one deadline. One that fails or runs out of time is recorded and the
rest goes on; the exit code is 0 only if every phase passed or had a reason to be skipped.
"""

from __future__ import annotations

import argparse
import datetime
import fnmatch
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonfile import write_json
from phases import GOOD, Phase, run_phases, summary
from revision import commit

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "benchmarks"
FORMAT = 1  # of the result file
DEADLINE = 520.0
OPS = sorted(file.stem for file in (ROOT / "fairtat" / "ops").glob("[a-z]*.py"))
EPILOG = """
examples:
  python benchmarks/gpu_check.py                         everything; the machine's python3 must have PyTorch
  python benchmarks/gpu_check.py --python ~/env/bin/python --out check
  python benchmarks/gpu_check.py --only build --only 'tests*'
  python benchmarks/gpu_check.py --rehearse --out check  no GPU: do the benchmarks' scripts run, on small inputs?

exit codes: 0 all passed, 1 something failed or had no time, 2 there is no GPU or a wrong argument
"""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    begin = time.monotonic()
    found = probe(arguments.python)
    if isinstance(found, str) or (found["gpu"] is None and not arguments.rehearse):
        reason = found if isinstance(found, str) else f"its PyTorch {found['torch']} sees no GPU"
        print(f"gpu-check: {arguments.python}: {reason}; --python names another interpreter", file=sys.stderr)
        return 2
    if arguments.rehearse and arguments.out is None:
        print("gpu-check: --rehearse measures nothing and needs --out, a folder for its record", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as scratch:
        folder = Path(scratch)
        out = arguments.out or HERE / "results"
        today = datetime.date.today().isoformat()
        path = out / f"{'rehearsal' if arguments.rehearse else slug(found['gpu'])}-{today}.json"
        plan = phases(arguments.python, found, folder, path, rehearse=arguments.rehearse)
        chosen = [p for p in plan if not arguments.only or any(fnmatch.fnmatchcase(p.name, o) for o in arguments.only)]
        if arguments.list or not chosen:
            print("\n".join(f"{phase.name}  (at most {phase.limit:.0f} s)" for phase in plan))
            return 0 if arguments.list else 2
        check: dict[str, Any] = {
            "format": FORMAT,
            "kind": "gpu-check",
            "device": found["gpu"],
            "rehearsal": arguments.rehearse,
            "environment": {**found, "commit": arguments.commit or commit(), "date": today},
            "deadline_s": arguments.deadline,
            "only": arguments.only,
            "complete": False,
        }

        def record(outcomes: Sequence[Mapping[str, Any]]) -> None:
            check["phases"] = list(outcomes)
            check["seconds"] = round(time.monotonic() - begin, 1)
            check["ok"] = all(outcome["outcome"] in GOOD for outcome in outcomes)
            write_json(path, check)

        record([])
        left = arguments.deadline - (time.monotonic() - begin)
        outcomes = run_phases(chosen, deadline=left, folder=folder, record=record, say=say)
        check["complete"] = True
        record(outcomes)
    report(check, path)
    return 0 if check["ok"] else 1


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="gpu_check.py", description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--python", default=sys.executable, metavar="EXE", help="the interpreter to build for (default: this one)"
    )
    made.add_argument("--out", type=Path, metavar="DIR", help="for <device>-<date>.json (default: benchmarks/results)")
    made.add_argument(
        "--deadline", type=float, default=DEADLINE, metavar="S", help="seconds for everything (default: %(default)g)"
    )
    made.add_argument("--only", action="append", metavar="GLOB", help="run the phases whose name matches; repeatable")
    made.add_argument("--list", action="store_true", help="print the phases and leave")
    made.add_argument("--commit", metavar="HASH", help="what is measured, where git cannot say")
    made.add_argument("--rehearse", action="store_true", help="run the benchmarks on this CPU with small inputs")
    return made


def phases(python: str, found: Mapping[str, Any], folder: Path, path: Path, *, rehearse: bool = False) -> list[Phase]:
    """All phases, the most important first. Their products go to ``folder``; ``path`` is the check's own record."""
    tree = {"PYTHONPATH": str(ROOT)}  # what did not install runs from the checkout, as far as it can
    nothing = "a rehearsal builds and tests nothing" if rehearse else ""

    def tests(name: str, files: Sequence[Path], limit: float) -> Phase:
        report = folder / f"{name}.xml"
        parallel = ("-n", "4") if found["tools"]["xdist"] else ()
        command = [
            *(python, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={report}", *parallel),
            *map(str, files),
        ]
        skip = nothing or ("" if files else "there are no such tests")
        return Phase(name, command, limit, tree, lambda: read_tests(report), untimed=True, skip=skip)

    def benchmark(name: str, limit: float, budget: float, *more: str) -> Phase:
        result = folder / f"{name}-cuda.json"
        command = [
            *(python, str(HERE / f"bench_{name}.py"), "--device", "cuda", "--keep-going", "--output", str(folder)),
            *("--budget", f"{budget:g}", "--min-rounds", "5", *more, *(("--rehearse",) if rehearse else ())),
        ]
        return Phase(name, command, limit, tree, lambda: read_result(result))

    files = gpu_tests()
    triton = [file for file in files if file.parent.name == "kernels"]
    sanitized = folder / "sanitizer.json"
    # CMake and Ninja may be the environment's own.
    path_of_tools = os.pathsep.join((str(Path(found["executable"]).parent), os.environ.get("PATH", os.defpath)))
    build = {
        "PATH": path_of_tools,
        "FAIRTAT_NATIVE": "1",
        "FAIRTAT_CUDA": "1",
        "CMAKE_CUDA_ARCHITECTURES": ";".join(found["architectures"]),
        "PIP_NO_INDEX": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
    }
    install = [*(python, "-m", "pip", "install", "-v", "--no-build-isolation", "--no-deps", "-e", str(ROOT))]
    sanitize = [python, str(HERE / "gpu_sanitize.py"), "--output", str(sanitized)]
    apply = [python, str(HERE / "gpu_apply.py"), str(path)]
    return [
        Phase("build", install, 200.0, build, skip=nothing),
        tests("tests", [file for file in files if file not in triton], 160.0),
        tests("tests-triton", triton, 160.0),
        Phase("sanitizer", sanitize, 130.0, tree, lambda: read_json(sanitized), untimed=True, skip=nothing),
        benchmark("pgd_step", 75.0, 0.7),
        benchmark("attack_gpu", 130.0, 6.0),
        benchmark("training", 100.0, 20.0, "--min-rounds", "2"),
        *(benchmark(op, 40.0, 0.7) for op in OPS if op != "pgd_step"),
        Phase("tables", apply, 20.0, tree, always=True, skip=nothing),
    ]


def probe(python: str) -> dict[str, Any] | str:
    """What gpu_probe.py finds with this interpreter, or why it could not be asked."""
    try:
        done = subprocess.run(
            [python, str(HERE / "gpu_probe.py")], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"cannot be run: {error}"
    if done.returncode != 0:
        return (done.stderr.strip().splitlines() or ["failed without a word"])[-1]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def gpu_tests() -> list[Path]:
    """The test files that mark a test gpu. Only these are collected: others may import what is not installed."""
    return [file for file in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in file.read_text("utf-8")]


def read_tests(report: Path) -> dict[str, Any]:
    """Counts and names from pytest's XML report.

    Raises:
        ValueError: no test passed, which proves nothing.
    """
    passed, failed, skipped = 0, [], {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        if case.find("failure") is not None or case.find("error") is not None:
            failed.append(name)
        elif (skip := case.find("skipped")) is not None:
            skipped[name] = skip.get("message", "")
        else:
            passed += 1
    if passed == 0:
        reasons = sorted(set(skipped.values()))
        raise ValueError(
            f"no test passed: {len(failed)} failed, {len(skipped)} skipped" + "".join(f"; {r}" for r in reasons)
        )
    return {"passed": passed, "failed": failed, "skipped": skipped}


def read_result(path: Path) -> dict[str, Any]:
    """A benchmark's result.

    Raises:
        OSError, ValueError: there is none, or not of every case.
    """
    result = read_json(path)
    failed = [case["name"] for case in result["cases"] if "failed" in case]
    if len(failed) == len(result["cases"]):
        raise ValueError(f"no case was measured: {', '.join(failed)}")
    return result


def read_json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return value


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def say(line: str) -> None:
    print(line, flush=True)


def report(check: Mapping[str, Any], path: Path) -> None:
    """The end of the output: each phase, what failed with the end of its log, and each goal."""
    for phase in check["phases"]:
        if "tail" in phase:
            print(f"\n--- {phase['name']}\n{phase['tail']}")
    print("\ngoals:")
    for phase in check["phases"]:
        for case in (phase.get("result") or {}).get("cases", ()):
            for target in case.get("targets", ()):
                figure = target.get("ratio") or target["seconds"]
                verdict = "met    " if target["met"] else "NOT MET"
                print(f"  {verdict} {phase['name']}, {case['name']}: {target['text']}: {figure['median']:.3g}")
    print("\nphases:")
    for phase in check["phases"]:
        print(f"  {summary(phase)}")
    print(f"\n{'passed' if check['ok'] else 'FAILED'} after {check['seconds']:.0f} s; wrote {path}")


if __name__ == "__main__":
    sys.exit(main())
