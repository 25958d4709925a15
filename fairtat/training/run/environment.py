"""Where and with what a run was made."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from typing import Any

import torch

from fairtat import __version__, backends
from fairtat.training.config import TrainConfig

__all__ = ["describe_environment"]


def describe_environment(config: TrainConfig, device: torch.device, processes: int = 1) -> dict[str, Any]:
    """Versions, machine, threads, kernels and command of this process, as JSON values."""
    on_gpu = device.type == "cuda"
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "fairtat": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": processes,
        "device": torch.cuda.get_device_name(device) if on_gpu else str(device),
        "cuda": torch.version.cuda if on_gpu else None,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
        "backend": {op: backends.choose(op, device, torch.float32, config.attack.backend) for op in backends.OPS},
        "git_commit": _git_commit(),
    }


def _git_commit() -> str | None:
    """The commit of the working directory, with ``-dirty`` when files differ from it; None outside a repository."""
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() or None if result.returncode == 0 else None
