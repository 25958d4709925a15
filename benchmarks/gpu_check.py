"""The whole proof on a GPU in one command, within a deadline of nine minutes and without a network.

Builds and installs fairtat into this interpreter's environment (which needs PyTorch with its GPU, nvcc, cmake, ninja,
pybind11, setuptools, pytest and pytest-benchmark, and nothing else), runs every test marked gpu, compute-sanitizer over
each kernel, and every GPU benchmark; writes OUT/<device>-<date>.json after each phase, and at the end the GPU tables of
docs/performance.md and the order behind backend="auto".

Each phase is a process with a time limit under one deadline. If one fails or runs out of time, that is recorded and
the rest goes on. Exit codes: 0 all passed or had a reason to be skipped, 1 something failed or had no time, 2 there is
no GPU or a wrong argument.

    python benchmarks/gpu_check.py                         everything
    python benchmarks/gpu_check.py --only build --only 'tests*' --out check
    python benchmarks/gpu_check.py --apply FILE            only the tables and the order, from a result carried over
"""

from __future__ import annotations

import argparse
import datetime
import fnmatch
import importlib.util
import math
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from harness import records
from harness.phases import GOOD, SKIP, Phase, run_phases, summary
from harness.records import ROOT
from harness.scripts import scripts

HERE = ROOT / "benchmarks"
PAGE = ROOT / "docs" / "performance.md"
DEADLINE = 520.0
OPS = sorted(file.stem for file in (ROOT / "fairtat" / "ops").glob("[a-z]*.py"))
GPU_BACKENDS = ("cuda", "triton")
BACKEND_ORDER = (*GPU_BACKENDS, "reference")


def find_gpu() -> dict[str, Any] | None:
    """The GPU that PyTorch sees, and what is beside it; None without one. fairtat is not built yet."""
    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    versions = {"torch": torch.__version__, "triton": records.version("triton"), "python": platform.python_version()}
    return records.describe_gpu() | versions | {"platform": platform.platform(), "executable": sys.executable}


def gpu_tests() -> list[Path]:
    """The test files that mark a test gpu. Only these are collected: others may import what is not installed."""
    return [file for file in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in file.read_text("utf-8")]


def read_tests(log: Path) -> dict[str, int]:
    """Counts from the end of pytest's output.

    Raises:
        ValueError: no test passed, which proves nothing.
    """
    last = log.read_text(encoding="utf-8", errors="replace").strip().rpartition("\n")[2]
    counts = {what: int(number) for number, what in re.findall(r"(\d+) (passed|failed|skipped|error)", last)}
    if not counts.get("passed"):
        raise ValueError(f"no test passed: {last}")
    return counts


def find_sanitizer() -> str | None:
    """On PATH, or in the folder of CUDA's tools."""
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    folders = [str(Path(home) / "bin") for home in homes if home] + ["/usr/local/cuda/bin"]
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=os.pathsep.join(folders))


def phases(gpu: Mapping[str, Any], folder: Path, path: Path) -> list[Phase]:
    """All phases, the most important first. Their products go to ``folder``; ``path`` is the check's own record."""
    python = [sys.executable, "-m"]
    script = [sys.executable, str(HERE / "gpu_check.py")]
    tree = {"PYTHONPATH": str(ROOT)}  # what did not install runs from the checkout, as far as it can
    build = {
        # CMake and Ninja may be the environment's own.
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))),
        "FAIRTAT_NATIVE": "1",
        "FAIRTAT_CUDA": "1",
        "CMAKE_CUDA_ARCHITECTURES": gpu["capability"].replace(".", ""),
        "PIP_NO_INDEX": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
    }

    def tests(name: str, files: Sequence[Path]) -> Phase:
        parallel = ("-n", "4") if records.version("pytest-xdist") else ()
        command = [*python, "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *parallel, *map(str, files)]
        return Phase(name, command, 160.0, tree, partial(read_tests, folder / f"{name}.log"), untimed=True)

    def benchmark(name: str, limit: float, budget: float, rounds: int = 5) -> Phase:
        effort = (f"--benchmark-max-time={budget:g}", f"--benchmark-min-rounds={rounds}", "--results", str(folder))
        command = [*python, "pytest", "-q", str(scripts()[name]), "--device", "cuda", *effort]
        return Phase(name, command, limit, tree, partial(records.read_json, records.result_path(folder, name, "cuda")))

    def sanitized(backend: str, tool: str) -> Phase:
        program = find_sanitizer()
        skip = "" if program else "compute-sanitizer is neither on PATH nor in CUDA_HOME"
        command = [str(program), "--tool", tool, "--error-exitcode", "99", "--print-limit", "10", *script]
        # Without PyTorch's memory pool every tensor is an allocation of its own, whose bounds the tool knows.
        environment = tree | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        return Phase(
            f"{tool}-{backend}", [*command, "--drive", backend], 130.0, environment, untimed=True, skip=skip
        )  # fmt: skip

    files = gpu_tests()
    triton = [file for file in files if file.parent.name == "kernels"]
    install = [*python, "pip", "install", "-v", "--no-build-isolation", "--no-deps", "-e", str(ROOT)]
    return [
        Phase("build", install, 200.0, build),
        tests("tests", [file for file in files if file not in triton]),
        tests("tests-triton", triton),
        *(sanitized(backend, tool) for backend in GPU_BACKENDS for tool in ("memcheck", "racecheck")),
        benchmark("pgd_step", 75.0, 0.7),
        benchmark("attack", 130.0, 6.0),
        benchmark("training", 100.0, 20.0, rounds=2),
        *(benchmark(op, 40.0, 0.7) for op in OPS if op != "pgd_step"),
        benchmark("engines", 200.0, 6.0),
        Phase("tables", [*script, "--apply", str(path)], 20.0, tree, always=True),
    ]


def drive(backend: str) -> int:
    """Run every op in the forms that take different paths through its kernels, each beside the reference."""
    import torch

    from fairtat import backends
    from fairtat.cli.selftest import run_selftest

    state = backends.status()[backend]
    if not state.available:
        print(state.reason)
        return SKIP
    sys.path.insert(0, str(ROOT / "tests" / "shared"))
    op_calls = importlib.import_module("op_calls")
    device = "cuda" if backend in GPU_BACKENDS else "cpu"
    calls = {name: call for make in op_calls.CALLS.values() for name, call in make().items()}
    # Rows that are longer than a block, and counts that do not fit into shared memory.
    target, index = torch.arange(5), torch.arange(600) % 300
    logits, clean = op_calls.numbers(0, 5, 1500) * 9, op_calls.numbers(1, 5, 1500)
    calls["logit_loss ce C=1500"] = (logits, target, "ce", None, None)
    calls["logit_loss dlr C=1500"] = (logits, target, "dlr", target + 1, None)
    calls["logit_loss kl C=1500"] = (logits, target, "kl", None, clean)
    counts = torch.zeros(op_calls.HEADER + 300, 300, dtype=torch.int64)
    calls["class_stats C=300"] = (counts, index * 7 % 300, index, op_calls.numbers(2, 600), None)
    wrong = [f"{check.op} {check.detail}" for check in run_selftest([backend]) if not check.passed]
    for name, arguments in calls.items():
        op = name.split()[0]
        try:
            op_calls.check(name, op_calls.run(op, backend, arguments, device), op_calls.run(op, "reference", arguments))
        except AssertionError:
            wrong.append(name)
    print(f"wrong: {', '.join(wrong)}" if wrong else f"the self-test and {len(calls)} calls")
    return 1 if wrong else 0


def order_of(op: str, result: Mapping[str, Any] | None) -> list[str]:
    """Backends by their time relative to the reference's, as the geometric mean over the op's cases.

    A backend that did not run in every case comes after those that did.
    """
    cases = [case for case in (result or {}).get("cases", []) if "failed" not in case]
    relative: dict[str, list[float]] = {backend: [] for backend in BACKEND_ORDER}
    for case in cases:
        seconds = {row["name"]: row["seconds"]["median"] for row in case["contestants"] if "seconds" in row}
        for backend, ratios in relative.items():
            if (name := f"fairtat, {backend}") in seconds:
                ratios.append(seconds[name] / seconds["fairtat, reference"])
    if not any(relative[backend] for backend in GPU_BACKENDS):
        raise SystemExit(f"no kernel of {op} was measured, so there is no order to write")
    whole = {b: ratios for b, ratios in relative.items() if len(ratios) == len(cases)}
    fastest = sorted(whole, key=lambda b: math.fsum(map(math.log, whole[b])) / len(whole[b]))
    return [*fastest, *(b for b in BACKEND_ORDER if b not in whole)]


def table_from(check: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of fairtat/backends/auto.json: which kernels backend="auto" tries, in order.

    Raises:
        SystemExit: an op was not measured.
    """
    from fairtat.backends import auto

    results = {phase["name"]: phase.get("result") for phase in check["phases"]}
    environment = check["environment"]
    measured = {"device": check["device"], "date": environment["date"], "commit": environment["commit"] or "unknown"}
    table = {"measured": measured, "order": {op: order_of(op, results.get(op)) for op in auto.OPS}}
    auto.parse(table)
    return table


def apply(path: Path) -> int:
    """Write a check's figures into docs/performance.md and the order behind backend="auto"."""
    import readme_table

    from fairtat.backends import auto

    check = records.read_json(path)
    if check.get("kind") != "gpu-check":
        raise SystemExit(f"{path}: not the result of a GPU check")
    readme_table.write_gpu(PAGE, path)
    records.write_json(auto.PATH, table_from(check))
    print(f"wrote {PAGE} and {auto.PATH}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=records.RESULTS, metavar="DIR", help="for <device>-<date>.json")
    parser.add_argument("--deadline", type=float, default=DEADLINE, metavar="S", help="seconds (default: %(default)g)")
    parser.add_argument("--only", action="append", metavar="GLOB", help="run the phases whose name matches; repeatable")
    parser.add_argument("--commit", metavar="HASH", help="what is measured, where git cannot say")
    parser.add_argument("--apply", type=Path, metavar="FILE", help="only put the figures of a result in their places")
    parser.add_argument("--drive", metavar="BACKEND", help="only call each op in many forms, for the sanitizer")
    arguments = parser.parse_args(argv)
    for action, argument in ((drive, arguments.drive), (apply, arguments.apply)):
        if argument is not None:
            return action(argument)
    gpu = find_gpu()
    if gpu is None:
        print(f"gpu-check: the PyTorch of {sys.executable} sees no GPU", file=sys.stderr)
        return 2
    begin, today = time.monotonic(), datetime.date.today().isoformat()
    path = arguments.out / f"{re.sub(r'[^a-z0-9]+', '-', gpu['gpu'].lower()).strip('-')}-{today}.json"
    environment = gpu | {"commit": arguments.commit or records.commit(), "date": today}
    check: dict[str, Any] = {
        "format": records.FORMAT, "kind": "gpu-check", "device": gpu["gpu"], "environment": environment,
        "deadline_s": arguments.deadline, "only": arguments.only, "complete": False,
    }  # fmt: skip

    def record(outcomes: Sequence[Mapping[str, Any]]) -> None:
        check["phases"] = list(outcomes)
        check["seconds"] = round(time.monotonic() - begin, 1)
        check["ok"] = all(outcome["outcome"] in GOOD for outcome in outcomes)
        records.write_json(path, check)

    with tempfile.TemporaryDirectory(prefix="gpu-check-") as scratch:
        plan = phases(gpu, Path(scratch), path)
        chosen = [p for p in plan if any(fnmatch.fnmatchcase(p.name, only) for only in arguments.only or ["*"])]
        if not chosen:
            print(f"--only must match one of {', '.join(phase.name for phase in plan)}", file=sys.stderr)
            return 2
        record([])
        say = partial(print, flush=True)
        outcomes = run_phases(chosen, deadline=arguments.deadline, folder=Path(scratch), record=record, say=say)
        check["complete"] = True
        record(outcomes)
    for phase in outcomes:
        print(f"\n--- {summary(phase)}\n{phase.get('tail', '')}")
    print(f"{'passed' if check['ok'] else 'FAILED'} after {check['seconds']:.0f} s; wrote {path}")
    return 0 if check["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
