"""``fairtat doctor``: what is installed, which kernels run here, and whether they are right."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from typing import Any

import jsonargparse
import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fairtat import backends
from fairtat._version import __version__
from fairtat.backends import auto
from fairtat.cli import packages
from fairtat.cli.parser import Parser
from fairtat.cli.selftest import Check, run_selftest
from fairtat.devices import has_native_bf16

OK, FAILED = Text("ok", style="green"), Text("FAILED", style="bold red")


def parser() -> jsonargparse.ArgumentParser:
    """Arguments and help of the subcommand."""
    parser = Parser(
        "doctor",
        "Show versions, backends and threads, check whether each optional package loads, and test every op on every\n"
        "backend that is present against known answers and the reference. The exit code is 1 if such a check fails:\n"
        "put this output into a bug report.",
        "  fairtat doctor\n  fairtat doctor --json > doctor.json",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    return parser


def run(options: jsonargparse.Namespace) -> int:
    """Print the report; 1 if a self-test failed."""
    checks = run_selftest()
    report = describe(checks)
    if options.json:
        print(json.dumps(report, indent=1))
    else:
        _print(report, checks)
    return 0 if report["ok"] else 1


def describe(checks: list[Check]) -> dict[str, Any]:
    """Everything that doctor reports, as plain JSON values."""
    return {
        "ok": all(check.passed for check in checks),
        "versions": {
            "fairtat": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "triton": packages.version_of("triton"),
        },
        "platform": platform.platform(),
        "gpus": [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())],
        "bf16": {device: has_native_bf16(torch.device(device)) for device in _devices()},
        "threads": {"torch": torch.get_num_threads(), "cpus": os.cpu_count()},
        "core": backends.native_info(),
        "backends": {
            name: {"available": state.available, "reason": state.reason} for name, state in backends.status().items()
        },
        "gpu_order": {
            "order": {op: list(names) for op, names in auto.GPU_ORDER.items()},
            "measured": None if auto.MEASURED is None else asdict(auto.MEASURED),
        },
        "optional": {
            name: {**asdict(package), "install": f"pip install 'fairtat[{package.extra}]'"}
            for name, package in packages.look().items()
        },
        "selftest": [
            {"op": check.op, "backend": check.backend, "passed": check.passed, "detail": check.detail}
            for check in checks
        ],
    }


def _devices() -> list[str]:
    return ["cpu", *(f"cuda:{k}" for k in range(torch.cuda.device_count()))]


def _print(report: dict[str, Any], checks: list[Check]) -> None:
    console = Console(highlight=False, markup=False)  # markup would eat the [eval] of a pip command
    kernels = backends.describe()  # before anything is printed: it refuses a wrong FAIRTAT_BACKEND
    versions = ", ".join(f"{name} {version or 'not installed'}" for name, version in report["versions"].items())
    threads = report["threads"]
    facts = Table.grid(padding=(0, 2))
    facts.add_row("versions", versions)
    facts.add_row("platform", report["platform"])
    facts.add_row("GPUs", ", ".join(report["gpus"]) or "none visible to PyTorch")
    words = {True: "native", False: "emulated, which is slow: leave amp at none or auto"}
    facts.add_row("bfloat16", "; ".join(f"{device} {words[native]}" for device, native in report["bf16"].items()))
    facts.add_row("threads", f"{threads['torch']} used by PyTorch and fairtat, {threads['cpus']} CPUs")
    facts.add_row("core", _core(report["core"]))
    for extra in dict.fromkeys(entry["extra"] for entry in report["optional"].values()):
        of_extra = {name: entry for name, entry in report["optional"].items() if entry["extra"] == extra}
        facts.add_row(f"[{extra}]", ", ".join(f"{name} {_state(entry)}" for name, entry in of_extra.items()))
        for name, entry in of_extra.items():
            if entry["error"] is not None:
                facts.add_row("", f"{name}: {entry['error']}", style="red")
        missing = [entry["install"] for entry in of_extra.values() if entry["version"] is None]
        if missing:
            facts.add_row("", missing[0])  # on a separate line, to be copied
    console.print(facts)
    console.print()
    console.print(kernels)
    console.print()
    console.print(_selftest_table(checks))
    for check in checks:
        if not check.passed:
            console.print(f"FAILED {check.op} on {check.backend}: {check.detail}", style="bold red")
    passed = sum(check.passed for check in checks)
    console.print(f"{passed} of {len(checks)} self-tests passed", style="green" if report["ok"] else "bold red")


def _state(package: dict[str, Any]) -> str:
    if package["version"] is None:
        return "not installed"
    return f"{package['version']} (does not load)" if package["error"] is not None else str(package["version"])


def _core(info: dict[str, Any] | None) -> str:
    if info is None:
        return "not available (see backends): ops run as plain PyTorch"
    openmp = "with OpenMP" if info["openmp"] else "without OpenMP: one thread"
    return f"{info['compiler']}, {openmp}; {info['isa']} in use, built for {', '.join(info['isas'])}"


def _selftest_table(checks: list[Check]) -> Table:
    names = list(dict.fromkeys(check.backend for check in checks))
    outcome = {(check.op, check.backend): check.passed for check in checks}
    table = Table(box=None, pad_edge=False)
    table.add_column("self-test")
    for name in names:
        table.add_column(name)
    for op in dict.fromkeys(check.op for check in checks):
        table.add_row(op, *(OK if outcome[op, name] else FAILED for name in names))
    return table
