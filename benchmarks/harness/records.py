"""Result files, and where a measurement was taken: machine, GPU, versions, commit and date.

Imports the standard library only, because gpu_check.py runs before fairtat is built.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

FORMAT = 1
ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace ``path`` in one step, with sorted keys so that two runs can be diffed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if value.get("format") != FORMAT:
        raise SystemExit(f"{path}: format {value.get('format')!r}, expected {FORMAT}; run the benchmark again")
    return value


def result_path(folder: Path, benchmark: str, device: str = "cpu") -> Path:
    """The file of a benchmark's results on one kind of device."""
    return folder / f"{benchmark}-{device}.json"


def duration(seconds: float) -> str:
    """Three digits in the unit that fits."""
    factor, unit = next((f, u) for f, u in ((1.0, "s"), (1e3, "ms"), (1e6, "us")) if seconds * f >= 1.0 or u == "us")
    value = seconds * factor
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"


def commit() -> str | None:
    """The commit that is measured, with "+changes" if tracked files other than the results differ from it."""
    head = _output("git", "rev-parse", "--short=12", "HEAD")
    if head is None:
        return None
    status = ("git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results", ":!README.md")
    return f"{head}+changes" if _output(*status) else head


def _output(*command: str) -> str | None:
    """What a command prints; None where it fails or is not there."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def describe_gpu() -> dict[str, Any]:
    """The current GPU and its driver as JSON values."""
    import torch

    properties = torch.cuda.get_device_properties("cuda")
    driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "cuda": torch.version.cuda,
        "driver": driver.splitlines()[0] if driver else None,
        "cudnn": torch.backends.cudnn.version(),
    }


@cache
def describe(device: str) -> dict[str, Any]:
    """Machine, versions, commit and date as JSON values; on a GPU, what it is as well."""
    import torch

    import fairtat
    from fairtat import backends

    native = backends.native_info()
    return (describe_gpu() if device == "cuda" else {}) | {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "isa": native["isa"] if native else None,
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": version("triton"),
        "fairtat": fairtat.__version__,
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }


def cpu_model() -> str:
    """The processor's name; platform.processor() says only "x86_64" on Linux."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else ()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
