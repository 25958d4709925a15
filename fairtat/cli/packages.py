"""Which optional packages are installed, and which of them load."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata

__all__ = ["OPTIONAL", "Package", "look", "version_of"]

# Distribution -> the module of it that fairtat uses, and the extra of fairtat that brings it.
OPTIONAL = {
    "scikit-learn": ("sklearn.datasets", "train"),
    "mlxtend": ("mlxtend.data", "train"),
    "matplotlib": ("matplotlib", "eval"),
    "jinja2": ("jinja2", "eval"),
    "pillow": ("PIL.Image", "eval"),
    "kornia": ("kornia", "eval"),
    "timm": ("timm", "vision"),
    "torchvision": ("torchvision.datasets", "vision"),
    "datasets": ("datasets", "hf"),
    "pyarrow": ("pyarrow.parquet", "parquet"),
    "torchmetrics": ("torchmetrics", "torchmetrics"),
    "submitit": ("submitit", "submitit"),
    "tensorboard": ("torch.utils.tensorboard", "tensorboard"),
    "wandb": ("wandb", "wandb"),
    "mlflow-skinny": ("mlflow", "mlflow"),
}

_PATIENCE = 120.0  # seconds; a cold disk and PyTorch take half a minute
_CODE = "import importlib, json, sys; sys.path[:] = json.loads(sys.argv[2]); importlib.import_module(sys.argv[1])"


@dataclass(frozen=True)
class Package:
    """An optional package as it is found here."""

    extra: str
    version: str | None  # None: not installed
    error: str | None = None  # why it does not load, although it is installed


def look() -> dict[str, Package]:
    """Every package of `OPTIONAL`, imported in a separate process: it may crash without raising an exception."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(OPTIONAL, pool.map(_look, OPTIONAL), strict=True))


def version_of(distribution: str) -> str | None:
    """The version in the installed metadata."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _look(distribution: str) -> Package:
    module, extra = OPTIONAL[distribution]
    version = version_of(distribution)
    return Package(extra, version, None if version is None else _import_error(module))


def _import_error(module: str) -> str | None:
    command = [sys.executable, "-c", _CODE, module, json.dumps(sys.path)]
    try:
        found = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        return f"its import takes more than {_PATIENCE:g} seconds"
    if found.returncode == 0:
        return None
    if found.returncode < 0:
        return f"its import ends with {signal.Signals(-found.returncode).name}"
    lines = found.stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"its import ends with exit code {found.returncode}"
