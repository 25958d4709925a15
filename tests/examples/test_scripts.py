"""The short scripts run as a reader would run them, and their figures make sense."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("sklearn")

EXAMPLES = Path(__file__).parents[2] / "examples"
CONFIGS = EXAMPLES.parent / "configs"
Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    def call(name: str, *arguments: str) -> str:
        path = str(EXAMPLES / name)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [path, *arguments])
        runpy.run_path(path, run_name="__main__")
        return capsys.readouterr().out

    return call


def percentages(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"([\d.]+)%", text)]


def test_attack_your_model(run: Run) -> None:
    first, second, *rest = run("attack_your_model.py").splitlines()
    clean, attacked = percentages(first)
    assert clean > 90
    assert attacked < clean - 10
    assert second.startswith("turned into the next digit: ")
    classes = [line for line in rest if line.startswith("digit ")]
    assert len(classes) == 10
    for line in classes:
        accuracy, _, low, high = percentages(line)  # the second one is the 95% of the interval
        assert low <= accuracy <= high


def test_your_own_loop_learns_and_its_radii_follow_the_classes(run: Run) -> None:
    *epochs, last = run("your_own_loop.py").splitlines()
    assert len(epochs) == 6
    radii = [[float(number) for number in re.findall(r"0\.\d+", line.partition("radii")[2])] for line in epochs]
    assert all(low < high for low, high in radii)
    clean, robust, worst = percentages(last)
    assert clean > 90
    assert clean > robust > worst


def test_your_own_loop_needs_ten_lines(run: Run) -> None:
    text = (EXAMPLES / "your_own_loop.py").read_text()
    assert [int(number) for number in re.findall(r"# (\d+)$", text, re.MULTILINE)] == list(range(1, 11))


def test_the_loop_of_accelerate_learns(run: Run) -> None:
    pytest.importorskip("accelerate")
    epochs = run("accelerate_loop.py").splitlines()
    assert len(epochs) == 4
    first, *_, last = [percentages(line)[0] for line in epochs]
    assert 10 < first < last  # chance, and what an epoch has taught


def test_evaluate_timm(run: Run) -> None:
    pytest.importorskip("torchvision")
    pytest.importorskip("timm")
    first, *rest = run("evaluate_timm.py", "--images", "100").splitlines()
    assert first.startswith("test_resnet on 100 images of digits, PGD-10, linf, eps 8/255")
    classes = [percentages(line) for line in rest if ": clean" in line]
    assert len(classes) == 10
    assert all(robust <= clean for clean, robust in classes)
    assert sum(clean for clean, _ in classes) / 10 > 50


def test_a_task_of_the_array_job_trains_and_the_same_line_goes_on(tmp_path: Path) -> None:
    def submitted() -> str:
        words = [
            "--config",
            str(CONFIGS / "digits.yaml"),
            "--epochs",
            "1",
            "--model.name",
            "mlp",
            "--attack.steps",
            "1",
        ]
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "SLURM_ARRAY_TASK_ID": "3",
            "RUNS": str(tmp_path),
        }
        done = subprocess.run(
            ["bash", EXAMPLES / "slurm.sh", *words], capture_output=True, text=True, check=True, env=environment
        )
        return done.stdout + done.stderr

    submitted()
    before = (tmp_path / "seed-3" / "checkpoint.pt").read_bytes()
    assert "seed: 3" in (tmp_path / "seed-3" / "config.yaml").read_text()
    assert "nothing to do" in submitted()
    assert (tmp_path / "seed-3" / "checkpoint.pt").read_bytes() == before
