"""Child processes: Triton is either imported as an interpreter or as a compiler, and never as both."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

Script = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="session")
def script(tmp_path_factory: pytest.TempPathFactory) -> Script:
    """Run a script of this folder in its own process; what it printed, one JSON object a line."""
    if find_spec("triton") is None:
        pytest.skip("needs Triton: pip install triton")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRITON_")}
    # For what all tests share; what is there already names the tree under test.
    paths = [str(Path(__file__).parents[1] / "shared"), environment.get("PYTHONPATH", "")]
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment |= {"OMP_NUM_THREADS": "1", "TRITON_CACHE_DIR": str(tmp_path_factory.mktemp("triton"))}

    def run(name: str, *arguments: str, interpret: bool = False) -> list[dict[str, Any]]:
        path = Path(__file__).with_name(name)
        done = subprocess.run(
            [sys.executable, str(path), *arguments],
            env={**environment, "TRITON_INTERPRET": str(int(interpret))},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run
