"""Where a measurement was taken: a figure without this is a rumour."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path
from typing import Any

import torch
from records import commit, describe_gpu, version

import fairtat
from fairtat import backends
from harness.gpu import clock

COPY_BYTES = 256 << 20  # larger than the caches of the machines we know, small enough for any of them


def describe(device: str = "cpu") -> dict[str, Any]:
    """Machine, versions, commit and date as JSON values; on a GPU, what it is as well."""
    native = backends.native_info()
    gpu = describe_gpu() if device == "cuda" else {}
    return gpu | {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "last_level_cache_mib": last_level_cache_mib(),
        "isa": native["isa"] if native else None,
        "load_average": round(os.getloadavg()[0], 2),
        "copy_gb_per_s": round(copy_bandwidth(device) / 1e9, 2),
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


def copy_bandwidth(device: str = "cpu") -> float:
    """Bytes a second, read and written, of PyTorch's copy between buffers that stay: the floor of a kernel."""
    # On a GPU four times as much: what is copied must not fit into its L2 cache.
    size = COPY_BYTES * (4 if device == "cuda" else 1)
    source = torch.rand(size // 2 // 4, device=device)
    destination = torch.zeros_like(source)
    sample = clock(device)
    return size / min(sample(lambda: destination.copy_(source), 1) for _ in range(7))
