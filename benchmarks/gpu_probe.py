"""What PyTorch's GPU is, and which tools are beside it, as one JSON object on the standard output.

Needs PyTorch alone: it is asked before fairtat is built.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform
import shutil
import subprocess
import sys
from typing import Any

import torch

TOOLS = ("pytest", "xdist", "triton", "torchvision", "timm", "torchattacks", "jsonargparse")


def describe_gpu() -> dict[str, Any]:
    """The current GPU and its driver as JSON values."""
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


def main() -> int:
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
    if torch.cuda.is_available():
        found |= describe_gpu()
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
