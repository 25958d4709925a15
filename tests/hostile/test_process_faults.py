"""Processes that die or are asked to stop, at any moment: what resumes is the same to the last bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tiny_run import make_tiny

from fairtat.training import train
from fairtat.training.config import to_yaml

pytestmark = pytest.mark.slow

SameRun = Callable[[Path, Path], None]

# Runs the command line and kills itself when a function of the package begins for the N-th time.
PROGRAM = """
import os, signal, sys
import fairtat.cli.evaluate, fairtat.cli.train, sklearn.datasets  # before the trace, which slows imports
from fairtat.cli.main import main
file, function, countdown = sys.argv[1], sys.argv[2], int(sys.argv[3])
def trace(frame, event, argument):
    global countdown
    code = frame.f_code
    if event == "call" and code.co_name == function and code.co_filename.endswith(file):
        countdown -= 1
        if countdown == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.setprofile(trace)
sys.exit(main(sys.argv[4:]))
"""

# Phase of a run -> where it begins: file, function, and which of its calls is the end of the process.
PHASES = {
    "before the folder is made": ("run/folder.py", "make", 1),
    "before the first checkpoint": ("checkpoint.py", "save_checkpoint", 1),
    "within the first checkpoint": ("files.py", "write_atomic", 3),
    "in the first epoch": ("pgd.py", "attack", 3),
    "before the best checkpoint": ("run/folder.py", "save_best", 1),
    "in an attack": ("pgd_steps.py", "step", 25),
    "between two steps": ("averaging.py", "after_step", 13),
    "in validation": ("validation.py", "validate", 2),
    "at the end of an epoch": ("fair_tat.py", "end_epoch", 2),
    "before the metrics": ("files.py", "append_json_line", 2),
    "after the metrics": ("run/folder.py", "save", 2),
    "before the weights": ("checkpoint.py", "save_weights", 2),
    "while it resumes": ("run/folder.py", "drop_metrics_after", 1),
    "while it loads the data": ("registry.py", "load_splits", 1),
    "while it reads the checkpoint": ("checkpoint.py", "load_checkpoint", 1),
}


def start(phase: tuple[str, str, int], *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *map(str, phase), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


NEVER = ("", "", 0)


def start_and_wait(*arguments: str) -> subprocess.Popen[bytes]:
    """A process that has trained its first epoch."""
    process = start(NEVER, *arguments)
    assert process.stdout is not None
    next(line for line in process.stdout if line.startswith(b"epoch 1/4"))
    return process


def finish(process: subprocess.Popen[bytes]) -> str:
    """What the process has printed when it ends by itself."""
    output, _ = process.communicate(timeout=120)
    return output.decode()


def undisturbed(folder: Path, epochs: int) -> tuple[Path, Path]:
    """The configuration's file, and the run that nothing has disturbed."""
    config = make_tiny(
        epochs=epochs,
        threads=1,
        fairness={"targets": "cfps", "margins": "G-rob"},
        averaging={"name": "ema", "every": "step"},
        optim={"schedule": "cosine"},
        output=str(folder / "whole"),
    )
    (folder / "config.yaml").write_text(to_yaml(config))
    return folder / "config.yaml", train(config).path


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return undisturbed(tmp_path_factory.mktemp("reference"), epochs=4)


@dataclass
class Disturbed:
    """A run to disturb, and the undisturbed run of the same configuration that it must end as."""

    config: Path
    whole: Path
    folder: Path
    assert_same: SameRun

    @property
    def begin_or_resume(self) -> list[str]:
        """The command's arguments."""
        if (self.folder / "checkpoint.pt").exists():
            return ["train", "--resume", str(self.folder)]
        return ["train", "--config", str(self.config), "--output", str(self.folder)]

    def finish(self) -> str:
        """Let it end undisturbed, and check its files; what was printed."""
        output = finish(start(NEVER, *self.begin_or_resume))
        self.assert_same(self.whole, self.folder)
        return output


@pytest.fixture
def run(reference: tuple[Path, Path], tmp_path: Path, assert_same_run: SameRun) -> Disturbed:
    return Disturbed(*reference, tmp_path / "run", assert_same_run)


@pytest.mark.fault(
    "kill -9 in every phase of a run",
    "20 kills of one run, in 15 phases and between writes; resumed bit-for-bit each time",
)
def test_killed_in_every_phase(tmp_path: Path, assert_same_run: SameRun) -> None:
    files = undisturbed(tmp_path, epochs=24)  # no process gets further than two
    run = Disturbed(*files, tmp_path / "run", assert_same_run)
    chance = random.Random(7)
    writes = [("files.py", "write_atomic", chance.randrange(1, 12)) for _ in range(5)]
    phases = (*PHASES.values(), *writes)
    assert len(phases) == 20
    for phase in phases:
        process = start(phase, *run.begin_or_resume)
        output = finish(process)
        assert process.returncode == -signal.SIGKILL, (phase, output)
    run.finish()


@pytest.mark.fault(
    "kill -9 at random times",
    "resumed bit-for-bit",
)
def test_killed_again_and_again_at_random_times(run: Disturbed) -> None:
    random_numbers = random.Random(0)
    kills = 0
    for _ in range(6):
        process = start(NEVER, *run.begin_or_resume)
        while process.poll() is None and not (run.folder / "run.lock").exists():
            time.sleep(0.005)
        time.sleep(random_numbers.random() * 0.4)
        process.kill()
        finish(process)
        kills += process.returncode == -signal.SIGKILL
    output = run.finish()
    assert kills > 0, output


@pytest.mark.fault(
    "SIGTERM, or one Ctrl-C",
    "the running epoch is dropped, the last line names the command that resumes bit-for-bit, exit code 130",
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_and_resumed_by_the_command_that_it_names(run: Disturbed, number: signal.Signals) -> None:
    process = start_and_wait(*run.begin_or_resume)
    process.send_signal(number)
    output = finish(process)
    if process.returncode != 0:  # it was still training
        assert process.returncode == 130
        last = output.splitlines()[-1]
        assert last.endswith(f"continue with: fairtat train --resume {run.folder}")
        again = start(NEVER, "train", *last.partition("fairtat train ")[2].split())
        output = finish(again)
        assert again.returncode == 0, output
    run.assert_same(run.whole, run.folder)


@pytest.mark.fault(
    "Ctrl-C twice",
    "it ends at once, without a traceback; resumed bit-for-bit",
)
def test_a_second_ctrl_c_ends_it_at_once(run: Disturbed) -> None:
    process = start_and_wait(*run.begin_or_resume)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    output = finish(process)
    assert process.returncode in (0, 130, -signal.SIGINT), output
    assert "Traceback" not in output
    run.finish()


@pytest.mark.fault(
    "two processes on one run folder",
    "the second is refused in one line and changes nothing",
)
def test_two_processes_on_one_folder(run: Disturbed) -> None:
    first = start(NEVER, *run.begin_or_resume)
    while first.poll() is None and not (run.folder / "checkpoint.pt").exists():
        time.sleep(0.005)
    first.send_signal(signal.SIGSTOP)
    try:
        path = str(run.folder)
        for arguments in (["--resume", path], ["--config", str(run.config), "--output", path]):
            second = start(NEVER, "train", *arguments)
            output = finish(second)
            assert second.returncode == 2, output
            assert output.count("error: ") == 1
            assert "is writing in this folder" in output.splitlines()[-1]
    finally:
        first.send_signal(signal.SIGCONT)
    finish(first)
    run.assert_same(run.whole, run.folder)


@pytest.mark.fault(
    "kill -9 of an evaluation",
    "the same command goes on; every prediction and margin equals an undisturbed evaluation",
)
def test_an_evaluation_that_is_killed(reference: tuple[Path, Path], tmp_path: Path) -> None:
    _, whole = reference

    def evaluate(phase: tuple[str, str, int], output: Path) -> tuple[int, str]:
        options = ["--attacks", "pgd-5,cw-5", "--batch_size", "64", "--output", str(output), "--sanity", "false"]
        process = start(phase, "evaluate", str(whole), *options)
        text = finish(process)
        return process.returncode, text

    for nth in (3, 2, 1):
        returned, text = evaluate(("store.py", "save", nth), tmp_path / "killed")
        assert returned == -signal.SIGKILL, text
    assert evaluate(NEVER, tmp_path / "killed")[0] == 0
    assert evaluate(NEVER, tmp_path / "undisturbed")[0] == 0
    killed, undisturbed = (load_samples(tmp_path / name) for name in ("killed", "undisturbed"))
    assert killed.keys() == undisturbed.keys()
    for name, array in undisturbed.items():
        np.testing.assert_array_equal(killed[name], array)


def load_samples(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "test.npz") as file:
        return {name: file[name] for name in file.files}
