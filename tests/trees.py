"""Copies of the tree to edit: for planted faults, and for an op that is added."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def copy_tree(tree: Path) -> None:
    """What git does not ignore, and the compiled core."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    paths = [*(ROOT / name for name in files if name), *(ROOT / "fairtat").glob("_C*.so")]
    for path in paths:
        if path.exists():  # not one that is deleted, but still in the index
            copy = tree / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy, follow_symlinks=False)


def build_core(tree: Path) -> None:
    """The compiled core of a tree, in place, for the CPU."""
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
        cwd=tree, check=True, capture_output=True, env={**os.environ, "FAIRTAT_NATIVE": "1", "FAIRTAT_CUDA": "0"},
    )  # fmt: skip


def run_python(tree: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """``python WORDS`` in a tree and with its package."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, *words], cwd=tree, env=environment, capture_output=True, text=True)


def run_tests(tree: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return run_python(tree, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words)
