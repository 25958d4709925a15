"""A configuration that trains in a fraction of a second, and what it means for two runs to be the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fairtat.training import TrainConfig
from fairtat.training.config import from_dict


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in changes.items():
        result[key] = merged(base[key], value) if isinstance(value, dict) and key in base else value
    return result


TINY: dict[str, Any] = {
    "data": {"name": "digits", "val": 0.05, "test": 0.6},
    "model": {"name": "mlp", "options": {"width": 32}},
    "attack": {"eps": 0.05, "step_size": 0.03, "steps": 2},
    "fairness": {},
    "optim": {"lr": 0.1},
    "eval": {"steps": 2},
    "epochs": 2,
    "batch_size": 64,
    "device": "cpu",
}


def make_tiny(**changes: Any) -> TrainConfig:
    """``make_tiny(attack={"eps": 0.1}, epochs=3)``: digits, a small MLP with two attack steps."""
    return from_dict(merged(TINY, changes))


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., TrainConfig]:
    """`make_tiny`, into tmp_path / "run"."""
    return lambda **changes: make_tiny(**{"output": str(tmp_path / "run"), **changes})


@pytest.fixture
def metrics_of() -> Callable[[Path], list[dict[str, Any]]]:
    return _metrics_of


@pytest.fixture
def assert_same_run() -> Callable[[Path, Path], None]:
    return _assert_same_run


def _metrics_of(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without the clocks, and without the digest, which covers them."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if not key.endswith(("seconds", "digest"))} for line in lines]


def _assert_same_run(one: Path, two: Path) -> None:
    """Metrics, weights, averages, momenta, rules and the best epoch of two runs, and that nothing else lies about."""
    assert _metrics_of(one) == _metrics_of(two)
    for name in ("checkpoint.pt", "best.pt"):
        states = [torch.load(folder / name, weights_only=True) for folder in (one, two)]
        for state in states:
            state["config"].pop("output")
        _assert_equal(*states)
    for name in ("model.safetensors", "best.safetensors"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    assert {file.name for file in one.iterdir()} == {file.name for file in two.iterdir()}


def _assert_equal(one: Any, two: Any) -> None:
    assert type(one) is type(two)
    if isinstance(one, Tensor):
        assert one.dtype == two.dtype
        assert torch.equal(one, two)
    elif isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            _assert_equal(one[key], two[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(two)
        for ours, theirs in zip(one, two, strict=True):
            _assert_equal(ours, theirs)
    else:
        assert one == two
