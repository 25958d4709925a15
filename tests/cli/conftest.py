"""Real runs, trained for an epoch, and the command called in this process."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fairtat.cli.main import main
from fairtat.training import train
from fairtat.training.config import from_dict

CONFIG: dict[str, Any] = {
    "data": {"name": "digits"},
    "model": {"name": "mlp"},
    "attack": {"eps": 0.1, "step_size": 0.05, "steps": 1},
    "eval": {"steps": 1},
    "epochs": 1,
}


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def fairtat(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """The command: ``fairtat("evaluate", path)`` gives exit code, stdout and stderr."""

    def call(*arguments: object) -> Result:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs at, fair (FAIR-TAT), wide (another radius) and other (another split of the data)."""
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("trained")
    changes: dict[str, dict[str, Any]] = {
        "at": {},
        "fair": {"fairness": {"targets": "cfps", "margins": "G-rob"}, "seed": 1},
        "wide": {"attack": {**CONFIG["attack"], "eps": 0.2}},
        "other": {"data": {"name": "digits", "seed": 5}},
    }
    for name, change in changes.items():
        train(from_dict({**CONFIG, **change, "output": str(folder / name)}))
    return folder


@pytest.fixture
def runs(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of ``trained`` that a test may change, in a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(trained, tmp_path / "runs"))
