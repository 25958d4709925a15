"""Finds the script of a benchmark by its name: ``bench_NAME.py`` in one of the folders beside the harness."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parents[1]


def scripts() -> dict[str, Path]:
    """Every benchmark's name and file."""
    return {path.stem.removeprefix("bench_"): path for path in sorted(HERE.glob("*/bench_*.py"))}


def load(name: str) -> ModuleType:
    """A benchmark's module."""
    return importlib.import_module(f"{scripts()[name].parent.name}.bench_{name}")
