"""The whole proof on a GPU in one command, within a deadline of nine minutes and without a network.

Builds and installs fairtat into the environment of --python (which needs PyTorch with its GPU, nvcc, cmake, ninja,
pybind11, setuptools, pytest and pytest-benchmark, and nothing else), runs every test marked gpu, compute-sanitizer over
each kernel, and every GPU benchmark; writes OUT/<device>-<date>.json after each phase, and at the end the GPU tables of
docs/performance.md and the order behind backend="auto".

Each phase is a process with a time limit under one deadline. If one fails or runs out of time, that is recorded and
the rest goes on; the exit code is 0 only if every phase passed or had a reason to be skipped.
"""

from __future__ import annotations

import argparse
import datetime
import fnmatch
import importlib.util
import json
import math
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, product
from pathlib import Path
from typing import Any

from records import RESULTS, ROOT, commit, describe_gpu, version, write_json
from records import read_json as read_result_file

HERE = ROOT / "benchmarks"
PAGE = ROOT / "docs" / "performance.md"
BACKEND_ORDER = ("cuda", "triton", "reference")
TOOLS = ("pytest", "pytest_benchmark", "xdist", "triton", "torchvision", "timm", "torchattacks", "jsonargparse")
FORMAT = 1  # of the result file
DEADLINE = 520.0
OPS = sorted(file.stem for file in (ROOT / "fairtat" / "ops").glob("[a-z]*.py"))
SKIP = 77  # the exit code of a phase that has nothing to do here; its last line says why
TAIL = 4000  # characters of output that are kept of a phase that did not pass
TOO_LITTLE = 5.0  # seconds: with less left, a phase is not begun

GOOD = ("passed", "skipped")
SANITIZERS = ("memcheck", "racecheck")
GPU_BACKENDS = ("cuda", "triton")
SHAPES = ((3, 3, 5, 7), (2, 3, 33, 31), (5, 1, 1, 1))  # odd, beyond one block, and a single element
FOUND = 99  # the exit code for what the sanitizer found
WATCH_LIMIT = 110.0  # seconds for one backend and tool
LINES = 20  # of a report
EPILOG = """
examples:
  python benchmarks/gpu_check.py                         everything; the machine's python3 must have PyTorch
  python benchmarks/gpu_check.py --python ~/env/bin/python --out check
  python benchmarks/gpu_check.py --only build --only 'tests*'
  python benchmarks/gpu_check.py --apply FILE            only the tables and the order, from a result carried over
  python benchmarks/gpu_check.py --rehearse --out check  no GPU: do the benchmarks' scripts run, on small inputs?

exit codes: 0 all passed, 1 something failed or had no time, 2 there is no GPU or a wrong argument
"""


@dataclass(frozen=True)
class Phase:
    """One command. It passes if it exits with 0 and ``collect`` (which reads what it left behind) does not object."""

    name: str
    command: Sequence[str]
    limit: float  # seconds
    environment: Mapping[str, str] = field(default_factory=dict)
    collect: Callable[[], Any] | None = None  # the phase's result as JSON values; a ValueError fails the phase
    untimed: bool = False  # measures no time, so that it may run beside its untimed neighbours
    always: bool = False  # runs also after the deadline
    skip: str = ""  # why there is nothing to run


def run_phases(
    phases: Sequence[Phase],
    *,
    deadline: float,
    folder: Path,
    record: Callable[[list[dict[str, Any]]], None],
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Run the phases in order until ``deadline`` seconds are over; one JSON object each.

    Args:
        deadline: seconds from now; no phase but those that ``always`` run outlives it.
        folder: where the phases' output goes, NAME.log each.
        record: called with all objects so far after every phase.
    """
    end = time.monotonic() + deadline
    outcomes: list[dict[str, Any]] = []
    for group in groups(phases):
        running: list[subprocess.Popen[bytes]] = []
        with ThreadPoolExecutor(len(group)) as pool:
            try:
                begun = [pool.submit(_run, phase, end, folder, running, say) for phase in group]
                for future in as_completed(begun):
                    outcomes.append(future.result())
                    say(summary(outcomes[-1]))
                    record(outcomes)
            finally:  # an interrupt leaves no process behind
                for process in running:
                    _kill(process)
    return outcomes


def groups(phases: Sequence[Phase]) -> list[list[Phase]]:
    """Untimed neighbors together, every other phase by itself."""
    keys = (("untimed", 0) if phase.untimed else ("timed", number) for number, phase in enumerate(phases))
    return [[phase for _, phase in group] for _, group in groupby(zip(keys, phases, strict=True), lambda pair: pair[0])]


def summary(outcome: Mapping[str, Any]) -> str:
    line = f"{outcome['name']}: {outcome['outcome']}, {outcome['seconds']:.1f} s"
    return line + (f": {outcome['detail']}" if outcome.get("detail") else "")


def _run(
    phase: Phase, end: float, folder: Path, running: list[subprocess.Popen[bytes]], say: Callable[[str], None]
) -> dict[str, Any]:
    """The outcome of one phase, whose process is in ``running`` as long as it lives."""
    begin = time.monotonic()
    left = end - begin
    if phase.skip:
        return _outcome(phase, "skipped", 0.0, detail=phase.skip)
    if left < TOO_LITTLE and not phase.always:
        return _outcome(phase, "no time left", 0.0, detail=f"{max(left, 0.0):.0f} s were left")
    say(f"{phase.name} ...")
    limit = phase.limit if phase.always else min(phase.limit, left)
    log = folder / f"{phase.name}.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            list(phase.command), stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **phase.environment},
            start_new_session=True,  # so that its children end with it
        )  # fmt: skip
    running.append(process)
    code: int | None = None
    with suppress(subprocess.TimeoutExpired):
        code = process.wait(limit)
    if code is None:
        _kill(process)
    running.remove(process)
    output = log.read_text(encoding="utf-8", errors="replace")
    last = (output.strip().splitlines() or [""])[-1]
    verdict = "timed out" if code is None else {0: "passed", SKIP: "skipped"}.get(code, "failed")
    details = {"timed out": f"after its {limit:.0f} s", "skipped": last, "failed": f"exit code {code}: {last}"}
    made = _outcome(phase, verdict, time.monotonic() - begin, detail=details.get(verdict, ""))
    if phase.collect is not None and verdict != "skipped":
        try:
            made["result"] = phase.collect()
        except (OSError, ValueError) as error:  # nothing was left behind, or it did not succeed
            if verdict == "passed":
                made |= {"outcome": "failed", "detail": str(error)}
    if made["outcome"] not in GOOD:
        made["tail"] = output[-TAIL:]
    return made


def _outcome(phase: Phase, verdict: str, seconds: float, *, detail: str) -> dict[str, Any]:
    made = {"name": phase.name, "outcome": verdict, "seconds": round(seconds, 2), "limit_s": phase.limit}
    return made | ({"detail": detail} if detail else {})


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and everything that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def probe(python: str) -> dict[str, Any] | str:
    """What --probe finds with this interpreter, or why it could not be asked."""
    try:
        done = subprocess.run(
            [python, str(HERE / "gpu_check.py"), "--probe"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"cannot be run: {error}"
    if done.returncode != 0:
        return (done.stderr.strip().splitlines() or ["failed without a word"])[-1]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def describe_machine() -> dict[str, Any]:
    """What PyTorch's GPU is, and which tools are beside it. Needs PyTorch alone: fairtat is not built yet."""
    import torch

    gpus = [torch.cuda.get_device_capability(k) for k in range(torch.cuda.device_count())]
    found: dict[str, Any] = {
        "gpu": None,
        "architectures": sorted({f"{major}{minor}" for major, minor in gpus}),
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "torch": torch.__version__,
        "triton": version("triton"),
        "tools": {name: importlib.util.find_spec(name) is not None for name in TOOLS},
        "nvcc": shutil.which("nvcc"),
    }
    return found | (describe_gpu() if torch.cuda.is_available() else {})


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

    def benchmark(name: str, limit: float, budget: float, rounds: int = 5) -> Phase:
        result = folder / f"{name}-cuda.json"
        command = [
            *(python, "-m", "pytest", "-q", str(HERE / f"bench_{name}.py"), "--keep-going", "--results", str(folder)),
            *(f"--benchmark-max-time={budget:g}", f"--benchmark-min-rounds={rounds}"),
            *(("--rehearse", "--skip", "torch.compile*") if rehearse else ("--device", "cuda")),
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
    script = [python, str(HERE / "gpu_check.py")]
    sanitizer = [*script, "--sanitize", str(sanitized)]
    return [
        Phase("build", install, 200.0, build, skip=nothing),
        tests("tests", [file for file in files if file not in triton], 160.0),
        tests("tests-triton", triton, 160.0),
        Phase("sanitizer", sanitizer, 130.0, tree, lambda: read_json(sanitized), untimed=True, skip=nothing),
        benchmark("pgd_step", 75.0, 0.7),
        benchmark("attack_gpu", 130.0, 6.0),
        benchmark("training", 100.0, 20.0, rounds=2),
        *(benchmark(op, 40.0, 0.7) for op in OPS if op != "pgd_step"),
        Phase("tables", [*script, "--apply", str(path)], 20.0, tree, always=True, skip=nothing),
    ]


Call = tuple[str, Callable[[], object]]


def calls(backend: str) -> Iterator[Call]:
    """Each op in the forms that take different paths through its kernels, with a name for each.

    An op that has no such forms here runs its self-test.
    """
    from fairtat import backends

    seen = set()
    for name, call in forms(backend):
        seen.add(name.split()[0])
        yield name, call
    for op in backends.OPS.keys() - seen:
        yield f"{op} self-test", partial(selftest, op, backend)


def selftest(op: str, backend: str) -> None:
    from fairtat.cli.selftest import run_selftest

    (found,) = [check for check in run_selftest([backend]) if check.op == op]
    if not found.passed:
        raise AssertionError(found.detail)


def forms(backend: str) -> Iterator[Call]:
    import torch
    from torch import Tensor

    import fairtat
    from fairtat import ops

    device = "cpu" if backend in ("cpu", "reference") else "cuda"
    generator = torch.Generator().manual_seed(0)

    def rand(*shape: int) -> Tensor:
        """Made on the host, so that the sanitizer has few kernels of PyTorch to watch."""
        return torch.rand(shape, generator=generator).to(device)

    def classes_of(n: int, classes: int) -> Tensor:
        return torch.randint(classes, (n,), generator=generator).to(device)

    for shape, norm, layout in product(SHAPES, ("linf", "l2"), (torch.contiguous_format, torch.channels_last)):
        n, channels = shape[:2]
        x, grad = (rand(*shape).contiguous(memory_format=layout) for _ in range(2))
        eps, step = rand(n), rand(n)
        for init in ("uniform", "normal", "zero"):
            start = partial(ops.pgd_init, x, eps, seed=1, init=init, norm=norm, backend=backend)
            yield f"pgd_init {init} {norm} {shape} {layout}", start
        for dtype in (torch.float32, torch.bfloat16):
            moved = partial(ops.pgd_step_, x.clone(), grad.to(dtype), x, norm=norm, backend=backend)
            yield f"pgd_step {norm} {shape} {layout} {dtype}", partial(moved, eps=0.1, step_size=0.01)
            extras = {
                "model_input": torch.empty_like(x, dtype=dtype),
                "mean": rand(channels),
                "std": rand(channels) + 0.5,
                "zero_grad": torch.zeros(n, dtype=torch.int64, device=device),
            }
            everything = partial(moved, eps=eps, step_size=step, **extras)
            yield f"pgd_step {norm} {shape} {layout} {dtype}, all", everything
            momentum = partial(everything, velocity=torch.zeros_like(x), momentum=0.9)
            yield f"pgd_step {norm} {shape} {layout} {dtype}, all with momentum", momentum
    for n, classes in ((7, 4), (3, 33), (5, 1500)):
        logits, clean, target = rand(n, classes) * 9, rand(n, classes), classes_of(n, classes)
        options: dict[str, dict[str, Tensor]] = {
            "ce": {},
            "margin": {},
            "dlr": {"y": (target + 1) % classes},
            "kl": {"clean_logits": clean},
        }
        for kind, more in options.items():
            loss = partial(ops.logit_loss, logits, target, kind=kind, backend=backend)
            yield f"logit_loss {kind} C={classes}", partial(loss, **more)
        targeted = torch.tensor([i % 2 == 0 for i in range(n)]).to(device)
        mixed = partial(ops.logit_loss, logits, target, kind=("ce", "kl"), targeted=targeted, clean_logits=clean)
        yield f"logit_loss ce and kl C={classes}", partial(mixed, backend=backend)
    for n, classes in ((301, 7), (301, 300)):  # counted in shared memory, and beyond it
        label, pred, target = (classes_of(n, classes) for _ in range(3))
        for size in ((classes,), (classes, classes)):
            table = ops.target_table(torch.rand(size, generator=generator) + 0.1).to(device)
            yield f"sample_targets {size}", partial(ops.sample_targets, label, table, seed=1, backend=backend)
        stats = fairtat.ClassStats(classes, device=device)
        count = partial(ops.class_stats_, stats, pred, label, backend=backend)
        yield f"class_stats C={classes}", count
        yield f"class_stats C={classes}, losses and targets", partial(count, loss=rand(n), target=target)


def drive(backend: str) -> int:
    """Run every call. Whether its numbers are right is for the tests; here they only have to be finite."""
    from torch import Tensor

    wrong, done = [], 0
    for name, call in calls(backend):
        result = call()
        tensors = [t for t in (result if isinstance(result, tuple) else (result,)) if isinstance(t, Tensor)]
        if not all(bool(t.cpu().isfinite().all()) for t in tensors):
            wrong.append(name)
        done += 1
    print(f"not finite: {', '.join(wrong)}" if wrong else f"{done} calls")
    return 1 if wrong else 0


def find_sanitizer() -> str | None:
    """On PATH, or in the folder of CUDA's tools."""
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    folders = [str(Path(home) / "bin") for home in homes if home] + ["/usr/local/cuda/bin"]
    return shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=os.pathsep.join(folders))


def watch(sanitizer: str, tool: str, backend: str) -> dict[str, Any]:
    """One backend under one tool; ``found`` is its report, empty where there was nothing to find."""
    from fairtat import backends

    state = backends.status()[backend]
    if not state.available:
        return {"backend": backend, "tool": tool, "outcome": "skipped", "detail": state.reason}
    command = [
        *(sanitizer, "--tool", tool, "--error-exitcode", str(FOUND), "--print-limit", "10"),
        *(sys.executable, str(Path(__file__)), "--drive", backend),
    ]
    # Without PyTorch's memory pool every tensor is an allocation of its own, whose bounds the tool knows.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=WATCH_LIMIT, check=False, errors="replace"
        )
    except subprocess.TimeoutExpired:
        return {"backend": backend, "tool": tool, "outcome": "failed", "detail": f"not done after {WATCH_LIMIT:.0f} s"}
    outcome = "passed" if done.returncode == 0 else "failed"
    lines = (done.stdout + done.stderr).strip().splitlines()
    return {"backend": backend, "tool": tool, "outcome": outcome, "detail": "\n".join(lines[-LINES:])}


def sanitize(output: Path | None = None) -> int:
    """Every GPU backend under memcheck (accesses) and racecheck (shared memory), side by side."""
    sanitizer = find_sanitizer()
    if sanitizer is None:
        print("compute-sanitizer is neither on PATH nor in CUDA_HOME")
        return SKIP
    pairs = list(product(GPU_BACKENDS, SANITIZERS))
    with ThreadPoolExecutor(len(pairs)) as pool:
        found = list(pool.map(lambda pair: watch(sanitizer, pair[1], pair[0]), pairs))
    for one in found:
        print(f"{one['backend']}, {one['tool']}: {one['outcome']}\n{one['detail']}\n")
    if output is not None:
        write_json(output, {"runs": found})
    failed = [f"{one['backend']} {one['tool']}" for one in found if one["outcome"] == "failed"]
    print(f"failed: {', '.join(failed)}" if failed else "nothing found")
    return 1 if failed else 0


def table_from(check: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of fairtat/backends/auto.json: which kernels backend="auto" tries, in order.

    Raises:
        SystemExit: an op was not measured.
    """
    from fairtat.backends import auto

    results = {phase["name"]: phase.get("result") for phase in check["phases"]}
    order = {op: order_of(op, results.get(op)) for op in auto.OPS}
    environment = check["environment"]
    measured = {"device": check["device"], "date": environment["date"], "commit": environment["commit"] or "unknown"}
    table = {"measured": measured, "order": order}
    auto.parse(table)
    return table


def order_of(op: str, result: Mapping[str, Any] | None) -> list[str]:
    """Backends by their time relative to the reference's, as the geometric mean over the op's cases.

    A backend that did not run in every case comes after those that did.
    """
    cases = [case for case in (result or {}).get("cases", []) if "failed" not in case]
    relative: dict[str, list[float]] = {backend: [] for backend in BACKEND_ORDER}
    for case in cases:
        seconds = {row["name"]: row["seconds"]["median"] for row in case["contestants"] if "seconds" in row}
        for backend, ratios in relative.items():
            name = f"fairtat, {backend}"
            if name in seconds:
                ratios.append(seconds[name] / seconds["fairtat, reference"])
    if not any(ratios for backend, ratios in relative.items() if backend != "reference"):
        raise SystemExit(f"no kernel of {op} was measured, so there is no order to write")
    whole = {b: ratios for b, ratios in relative.items() if len(ratios) == len(cases)}
    fastest = sorted(whole, key=lambda b: math.fsum(map(math.log, whole[b])) / len(whole[b]))
    return [*fastest, *(b for b in BACKEND_ORDER if b not in whole)]


def apply(path: Path) -> int:
    """Write a check's figures into docs/performance.md and the order behind backend="auto"."""
    import readme_table

    from fairtat.backends import auto

    check = read_result_file(path)
    if check.get("kind") != "gpu-check" or check.get("rehearsal"):
        raise SystemExit(f"{path}: not the result of a GPU check")
    readme_table.write_gpu(PAGE, path)
    write_json(auto.PATH, table_from(check))
    print(f"wrote {PAGE} and {auto.PATH}")
    return 0


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
    made.add_argument("--apply", type=Path, metavar="FILE", help="only put the figures of a result in their places")
    made.add_argument("--probe", action="store_true", help="only print what this interpreter and its GPU are, as JSON")
    made.add_argument("--sanitize", type=Path, metavar="FILE", help="only run compute-sanitizer, with a report in FILE")
    made.add_argument("--drive", metavar="BACKEND", help="only call each op on small odd shapes, for the sanitizer")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    if arguments.probe:
        print(json.dumps(describe_machine()))
        return 0
    if arguments.drive is not None:
        return drive(arguments.drive)
    if arguments.sanitize is not None:
        return sanitize(arguments.sanitize)
    if arguments.apply is not None:
        return apply(arguments.apply)
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
        out = arguments.out or RESULTS
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


if __name__ == "__main__":
    sys.exit(main())
