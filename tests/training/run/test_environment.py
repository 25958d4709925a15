"""What a run says of the machine: strict JSON, and true."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

import fairtat
from fairtat.training import TrainConfig
from fairtat.training.run.environment import describe_environment


def test_values(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    environment = describe_environment(TrainConfig(), torch.device("cpu"))
    assert json.loads(json.dumps(environment, allow_nan=False)) == environment
    assert environment["fairtat"] == fairtat.__version__
    assert environment["threads"] == torch.get_num_threads()
    assert environment["device"] == "cpu"
    chosen = fairtat.backends.choose("pgd_step", torch.device("cpu"), torch.float32, "auto")
    assert environment["backend"]["pgd_step"] == chosen
    assert environment["git_commit"] is None


def test_commit_of_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", *identity, *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    (tmp_path / "file").write_text("a")
    git("add", "file")
    git("commit", "-qm", "first")
    monkeypatch.chdir(tmp_path)
    commit = git("rev-parse", "HEAD").strip()
    assert describe_environment(TrainConfig(), torch.device("cpu"))["git_commit"] == commit
    (tmp_path / "file").write_text("b")
    assert describe_environment(TrainConfig(), torch.device("cpu"))["git_commit"] == f"{commit}-dirty"
