"""Installs a wheel into an environment that has PyTorch alone, and attacks a model there.

    python tests/check_wheel.py dist/fairtat-*.whl
    python tests/check_wheel.py     # what is installed, where it is

PyTorch is not downloaded: its files, and those of what it requires, are linked from the environment that runs this. No
other package is there, so an import that a wheel's user would lack fails.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

PROGRAM = """
import torch, fairtat
state = fairtat.backends.status()["cpu"]
assert state.available, state.reason
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(75, 4)).eval()
x, target = torch.rand(6, 3, 5, 5), torch.arange(6) % 4
attack = {"eps": 0.1, "steps": 3, "seed": 0}
x_adv = fairtat.fast_targeted_pgd(model, x, target, **attack)
assert torch.equal(x_adv, fairtat.fast_targeted_pgd(model, x, target, backend="reference", **attack))
assert 0 < (x_adv - x).abs().max() <= 0.1 + 1e-6
print("fairtat", fairtat.__version__, "beside torch", torch.__version__, "alone: core and reference agree")
"""


def requirements(name: str, found: set[str] | None = None) -> set[str]:
    """A distribution and all that it requires here, extras left out."""
    found = set() if found is None else found
    name = re.sub(r"[-_.]+", "-", name).lower()
    if name in found:
        return found
    try:
        needed = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:  # for another platform
        return found
    found.add(name)
    for line in needed:
        match = re.match(r"[\w.-]+", line)
        if match and "extra ==" not in line:
            requirements(match.group(), found)
    return found


def link(name: str, site: Path) -> None:
    """The files of an installed distribution, as links to its top-level folders and modules."""
    for file in importlib.metadata.files(name) or []:
        top = Path(file.parts[0])
        there = Path(str(file.locate())).resolve()
        source = there if len(file.parts) == 1 else there.parents[len(file.parts) - 2]
        if top.name not in ("..", "__pycache__") and source.exists() and not (site / top).exists():
            (site / top).symlink_to(source)


def check(wheel: Path) -> str:
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=False)
        python = Path(folder) / "bin" / "python"
        ask = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        site = Path(subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip())
        for name in sorted(requirements("torch")):
            link(name, site)
        command = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps", "--no-index"]
        subprocess.run([*command, str(wheel.resolve())], check=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        done = subprocess.run(
            [str(python), "-I", "-c", PROGRAM], cwd=folder, env=environment, capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise SystemExit(f"{wheel.name}: {done.stderr}")
    return done.stdout.strip()


if __name__ == "__main__":
    if len(sys.argv) == 1:
        exec(PROGRAM)
    for argument in sys.argv[1:]:
        print(f"{Path(argument).name}: {check(Path(argument))}")
