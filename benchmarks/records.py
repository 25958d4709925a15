"""Result files, and the commit and the GPU that they belong to.

Imports the standard library only, because gpu_check.py runs before fairtat is built.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORMAT = 1
ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace ``path`` in one step, with sorted keys so that two runs can be diffed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
    head = _git("rev-parse", "--short=12", "HEAD")
    if head is None:
        return None
    changes = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results", ":!README.md")
    return f"{head}+changes" if changes else head


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(("git", *arguments), cwd=ROOT, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def describe_gpu() -> dict[str, Any]:
    """The current GPU and its driver as JSON values."""
    import torch

    properties = torch.cuda.get_device_properties("cuda")
    return {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "gpu_memory_mib": properties.total_memory >> 20,
        "gpu_l2_mib": properties.L2_cache_size >> 20,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "driver": driver_version(),
        "cudnn": torch.backends.cudnn.version(),
    }


def driver_version() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.splitlines()[0].strip() if done.stdout else None


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
