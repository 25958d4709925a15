"""Numbers that are none: images with NaN, and losses that explode."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fairtat.training import TrainConfig, load_run
from fairtat.training.config import to_yaml

Tiny = Callable[..., TrainConfig]


def train(config: TrainConfig, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "config.yaml").write_text(to_yaml(config))
    command = [sys.executable, "-m", "fairtat", "train", "--config", str(folder / "config.yaml")]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def the_error(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode not in (0, None), done.stdout
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.fault(
    "an image with a NaN",
    "refused before anything is written, in one line that names the file",
)
@pytest.mark.parametrize("value", [np.nan, pytest.param(np.inf, marks=pytest.mark.slow), 7.0])
def test_a_nan_among_the_images(tiny: Tiny, tmp_path: Path, value: float) -> None:
    images = np.random.default_rng(0).random((60, 1, 8, 8), dtype=np.float32)
    images[41, 0, 3, 3] = value
    np.savez(tmp_path / "images.npz", images=images, labels=np.arange(60) % 10)
    data = {"name": str(tmp_path / "images.npz"), "val": 0.2, "test": 0.2}
    error = the_error(train(tiny(data=data, batch_size=8), tmp_path))
    assert "images.npz" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.fault(
    "a loss that explodes",
    "training stops with one line that names the epoch and what to lower; the last good epoch stays",
)
@pytest.mark.parametrize("targets", [pytest.param("none", marks=pytest.mark.slow), "cfps"])
def test_a_loss_that_explodes(tiny: Tiny, tmp_path: Path, targets: str) -> None:
    config = tiny(epochs=6, optim={"lr": 1e25}, fairness={"targets": targets})
    error = the_error(train(config, tmp_path))
    assert "epoch 1" in error
    assert "optim.lr" in error
    assert load_run(tmp_path / "run").epoch == 0
    metrics = tmp_path / "run" / "metrics.jsonl"
    assert not metrics.exists() or "NaN" not in metrics.read_text()
