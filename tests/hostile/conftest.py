"""Fixtures of the tests of damaged, foreign and hostile files."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_run import assert_same_run, metrics_of, tiny

from fairtat.training import train
from fairtat.training.config import from_dict

__all__ = ["assert_same_run", "finished", "metrics_of", "tiny"]


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three epochs, whose files the tests damage or forge in copies."""
    config = from_dict({
        "data": {"name": "digits", "val": 0.05, "test": 0.6},
        "model": {"name": "mlp", "options": {"width": 8}},
        "attack": {"eps": 0.05, "step_size": 0.03, "steps": 1},
        "eval": {"steps": 1},
        "epochs": 3,
        "batch_size": 64,
        "device": "cpu",
        "output": str(tmp_path_factory.mktemp("finished") / "run"),
    })  # fmt: skip
    return train(config).path
