"""Runs that are killed without warning, at any moment, and resumed: the same bits as if nothing had happened."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fairtat.training import TrainConfig, resume, train
from fairtat.training.config_io import to_yaml

pytestmark = pytest.mark.slow

SameRun = Callable[[Path, Path], None]

# Trains or resumes; kills itself, if it is told to, when the N-th write, rename or link of a file is about to happen.
PROGRAM = """
import os, signal, sys
from pathlib import Path
import fairtat.files
from fairtat.cli.main import main
countdown = int(sys.argv[1])
def counted(function):
    def call(*arguments, **options):
        global countdown
        countdown -= 1
        if countdown == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return call
fairtat.files.os.fsync = counted(os.fsync)
Path.replace = counted(Path.replace)
Path.hardlink_to = counted(Path.hardlink_to)
sys.exit(main(["train", *sys.argv[2:]]))
"""


def start(countdown: int, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(countdown), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture
def reference(tiny: Callable[..., TrainConfig], tmp_path: Path) -> tuple[Path, Path]:
    """The configuration's file, and the run that nothing has disturbed."""
    config = tiny(
        epochs=4,
        threads=1,
        fairness={"targets": "cfps", "margins": "G-rob"},
        averaging={"name": "ema", "every": "step"},
        optim={"schedule": "cosine"},
        output=str(tmp_path / "whole"),
    )
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    return tmp_path / "config.yaml", train(config).path


# Of an epoch there are 6 files: the moments between them, in the second and third epoch.
@pytest.mark.parametrize("countdown", [random.Random(7).randrange(30, 80) + offset for offset in (0, 1, 2)])
def test_killed_while_it_writes(
    reference: tuple[Path, Path], tmp_path: Path, assert_same_run: SameRun, countdown: int
) -> None:
    config, whole = reference
    process = start(countdown, "--config", str(config), "--output", str(tmp_path / "run"))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, output
    resume(tmp_path / "run")
    assert_same_run(whole, tmp_path / "run")


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_again_and_again_at_random_times(
    reference: tuple[Path, Path], tmp_path: Path, assert_same_run: SameRun, seed: int
) -> None:
    config, whole = reference
    run = tmp_path / "run"
    random_numbers = random.Random(seed)
    kills = 0
    for _ in range(4):
        arguments = ["--resume", str(run)] if run.exists() else ["--config", str(config), "--output", str(run)]
        process = start(0, *arguments)
        while process.poll() is None and not (run / "run.lock").exists():
            time.sleep(0.005)
        time.sleep(random_numbers.random() * 0.4)
        if (run / "checkpoint.pt").exists():
            process.kill()
            kills += 1
        process.communicate(timeout=120)
        if process.returncode == 0:
            break
    assert kills > 0
    if (run / "run.lock").exists():
        resume(run)
    assert_same_run(whole, run)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_and_resumed_by_the_command_that_it_names(
    reference: tuple[Path, Path], tmp_path: Path, assert_same_run: SameRun, number: signal.Signals
) -> None:
    config, whole = reference
    run = tmp_path / "run"
    process = start(0, "--config", str(config), "--output", str(run))
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(b"epoch 1/4"):
            break
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    if process.returncode != 0:  # it was still training
        assert process.returncode == 130
        last = output.decode().splitlines()[-1]
        assert last.endswith(f"continue with: fairtat train --resume {run}")
        again = start(0, *last.partition("fairtat train ")[2].split())
        output, _ = again.communicate(timeout=120)
        assert again.returncode == 0, output
    assert_same_run(whole, run)
