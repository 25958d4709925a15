"""Installs fairtat in fresh environments, one after another, and attacks a model in each; prints a row of a table each.

    python tests/matrix.py --torch 2.13.0 python3.10 python3.11 python3.12

Each interpreter gets a wheel with the compiled core, one of pure Python and an editable installation, without nvcc and
without Triton. Where PyTorch would bring CUDA's packages, gigabytes, only the syntax is checked (without --cuda).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WAYS = {"wheel": ("1", ()), "pure Python": ("0", ()), "editable": ("1", ("-e",))}  # FAIRTAT_NATIVE, pip's options
SMOKE = """
import sys, time
import torch
start = time.process_time()
import fairtat
print(f"{1e3 * (time.process_time() - start):.0f} ms", end=" ")
assert "triton" not in sys.modules
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(75, 4)).eval()
x, y = torch.rand(6, 3, 5, 5), torch.arange(6) % 4
found, defined = (fairtat.fast_pgd(model, x, y, eps=0.1, steps=3, seed=0, backend=b) for b in ("auto", "reference"))
assert torch.equal(found, defined) and 0 < (found - x).abs().max() <= 0.1 + 1e-6
assert fairtat.backends.status()["cpu"].available == (sys.argv[1] == "1")
assert not fairtat.backends.status()["triton"].available
"""


def said(*command: object, cwd: Path = ROOT, **environment: str) -> str:
    """What a command prints; SystemExit with its last line where it fails."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run(
        [str(each) for each in command], cwd=cwd, env=own | environment, text=True, capture_output=True, check=False
    )
    if done.returncode:
        raise SystemExit((done.stderr.strip() or done.stdout.strip()).splitlines()[-1])
    return done.stdout.strip()


def installed(python: str, torch: str, way: str, folder: Path, *, cuda: bool) -> str:
    """What came of it: the time of `import fairtat` beyond PyTorch, or why only the syntax was checked."""
    said(python, "-m", "venv", folder)
    own = folder / "bin" / "python"
    pip = (own, "-m", "pip", "install", "-q")
    plan = said(own, "-m", "pip", "install", "--dry-run", f"torch=={torch}")
    if not cuda and ("nvidia-" in plan or "triton" in plan):
        said(python, "-m", "compileall", "-q", "-f", "fairtat", PYTHONPYCACHEPREFIX=str(folder))
        return "syntax only: PyTorch brings CUDA's packages"
    native, options = WAYS[way]
    source = folder / "source"  # a copy: a build writes beside the files
    for name in said("git", "ls-files").splitlines():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name, follow_symlinks=False)
    said(*pip, f"torch=={torch}", "setuptools>=77", "wheel", "cmake", "ninja", "pybind11")
    path = f"{own.parent}{os.pathsep}{os.environ['PATH']}"
    said(*pip, "--no-build-isolation", *options, ".", cwd=source, FAIRTAT_NATIVE=native, FAIRTAT_CUDA="0", PATH=path)
    said(own, "-m", "pip", "check")
    said(own.parent / "fairtat", "--help")
    return f"attacks; import {said(own, '-I', '-c', SMOKE, native)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(",")[0])
    parser.add_argument("pythons", nargs="*", default=[sys.executable], help="interpreters (default: this one)")
    parser.add_argument("--torch", default="2.13.0", help="version of PyTorch")
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=[*WAYS], help="how to install")
    parser.add_argument("--cuda", action="store_true", help="allow the download of CUDA's packages")
    options = parser.parse_args()
    print("| Python | PyTorch | installed as | |\n| --- | --- | --- | --- |")
    failed = False
    for python in options.pythons:
        for way in options.ways:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    found = installed(python, options.torch, way, Path(folder), cuda=options.cuda)
                except SystemExit as error:
                    found, failed = f"FAILED: {error}", True
            print(f"| {said(python, '-V').split()[1]} | {options.torch} | {way} | {found} |", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
