"""A configuration that trains in a fraction of a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fairtat.training import TrainConfig
from fairtat.training.config_io import from_dict


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in changes.items():
        result[key] = merged(base[key], value) if isinstance(value, dict) and key in base else value
    return result


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., TrainConfig]:
    """``tiny(attack={"eps": 0.1}, epochs=3)``: digits, a small MLP with two attack steps, into tmp_path / "run"."""
    base: dict[str, Any] = {
        "data": {"name": "digits", "val": 0.05, "test": 0.6},
        "model": {"name": "mlp", "options": {"width": 32}},
        "attack": {"eps": 0.05, "step_size": 0.03, "steps": 2},
        "fairness": {},
        "optim": {"lr": 0.1},
        "eval": {"steps": 2},
        "epochs": 2,
        "batch_size": 64,
        "device": "cpu",
        "output": str(tmp_path / "run"),
    }
    return lambda **changes: from_dict(merged(base, changes))
