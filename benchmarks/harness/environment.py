"""Where a measurement was taken: a figure without this is a rumour."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

import fairtat
from fairtat import backends

ROOT = Path(__file__).resolve().parents[2]
COPY_BYTES = 256 << 20  # larger than the caches of the machines we know, small enough for any of them


def describe() -> dict[str, Any]:
    """Machine, versions, commit and date as JSON values."""
    native = backends.native_info()
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "last_level_cache_mib": last_level_cache_mib(),
        "isa": native["isa"] if native else None,
        "load_average": round(os.getloadavg()[0], 2),
        "copy_gb_per_s": round(copy_bandwidth() / 1e9, 2),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": _version("triton"),
        "fairtat": fairtat.__version__,
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }


def cpu_model() -> str:
    """The processor's name; platform.processor() says only "x86_64" on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def last_level_cache_mib() -> float | None:
    """Size of the largest cache that the first core sees, which may be shared with other tenants."""
    sizes = []
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = path.read_text().strip()
        if text.endswith("K") and text[:-1].isdigit():
            sizes.append(int(text[:-1]) / 1024)
    return max(sizes, default=None)


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of PyTorch's copy between buffers that stay: the floor of a kernel."""
    source = torch.ones(COPY_BYTES // 2 // 4)
    destination = torch.zeros_like(source)
    best = float("inf")
    for _ in range(7):
        begin = time.perf_counter()
        destination.copy_(source)
        best = min(best, time.perf_counter() - begin)
    return COPY_BYTES / best


def commit() -> str | None:
    """The commit that was measured, with "+changes" when tracked files beside the results differ from it."""
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


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
