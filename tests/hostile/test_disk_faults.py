"""Disks that are full, folders that cannot be written, clocks that jump: one line, and nothing is lost."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fairtat.training import TrainConfig, load_run, resume, train
from fairtat.training.config import to_yaml

pytestmark = pytest.mark.slow

Tiny = Callable[..., TrainConfig]
SameRun = Callable[[Path, Path], None]

COMMAND = [sys.executable, "-m", "fairtat"]
# Of linux/prctl.h and linux/capability.h.
PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 24, 1, 2


def run(*command: str, before: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, preexec_fn=before, env=environment)


def written(config: TrainConfig, path: Path) -> str:
    path.write_text(to_yaml(config))
    return str(path)


@pytest.mark.fault(
    "a disk that fills up while training",
    "one line that names the last safe epoch; no half file; with room again, resumed bit-for-bit",
)
def test_a_disk_without_room(tiny: Tiny, tmp_path: Path, assert_same_run: SameRun) -> None:
    config = tiny(epochs=3, threads=1, averaging={"name": "ema"})
    whole = train(tiny(epochs=3, threads=1, averaging={"name": "ema"}, output=str(tmp_path / "whole"))).path
    # The kernel itself refuses every file from the size of the last checkpoint on, as a full disk would.
    full = (whole / "checkpoint.pt").stat().st_size
    start = train_once(config, tmp_path)
    assert start.returncode == 0, start.stderr

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (full // 2, full // 2))

    refused = run(*COMMAND, "train", "--resume", config.output or "", "--epochs", "3", before=no_room)
    assert refused.returncode not in (0, None)
    assert "Traceback" not in refused.stderr
    lines = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, refused.stderr
    assert "epoch 1 is safe" in lines[0]
    assert load_run(tmp_path / "run").epoch == 1
    resume(tmp_path / "run", config=config)
    assert_same_run(whole, tmp_path / "run")


def train_once(config: TrainConfig, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """The first epoch of the run, as one that was stopped after it."""
    code = (
        "import sys; from fairtat.training import train, TrainConfig, Observer\n"
        "from fairtat.training.config import from_dict, load_yaml\n"
        "class Stop(Observer):\n"
        "    done = False\n"
        "    def on_epoch(self, metrics): self.done = True\n"
        "stop = Stop()\n"
        "train(from_dict(load_yaml(sys.argv[1])), observer=stop, should_stop=lambda: stop.done)\n"
    )
    return run(sys.executable, "-c", code, written(config, tmp_path / "config.yaml"))


def without_override() -> None:
    """Even as root, be refused what the permissions of a file do not allow."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None)
        for capability in (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH):
            assert libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0


@pytest.mark.fault(
    "a folder that may not be written",
    "training, resuming and evaluating end with one line that names the folder; nothing changes",
)
def test_a_read_only_folder(tiny: Tiny, tmp_path: Path) -> None:
    done = train(tiny(threads=1, optim={"schedule": "constant"})).path
    before = {file.name: file.read_bytes() for file in done.iterdir()}
    config = written(tiny(threads=1, output=str(tmp_path / "new")), tmp_path / "config.yaml")
    for folder in (done, tmp_path):
        folder.chmod(0o555)
    try:
        for arguments in (
            ["train", "--config", config],
            ["train", "--resume", str(done), "--epochs", "3"],
            ["evaluate", str(done), "--attacks", "fgsm"],
        ):
            refused = run(*COMMAND, *arguments, before=without_override)
            assert refused.returncode == 2, (arguments, refused.stdout, refused.stderr)
            assert "Traceback" not in refused.stderr
            errors = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
            assert len(errors) == 1, refused.stderr
            assert str(tmp_path) in errors[0]
    finally:
        for folder in (tmp_path, done):
            folder.chmod(0o755)
    assert {file.name: file.read_bytes() for file in done.iterdir()} == before


@pytest.mark.fault(
    "a clock that is set back",
    "nothing depends on it: trained and resumed bit-for-bit",
)
def test_a_clock_that_goes_backwards(
    tiny: Tiny, tmp_path: Path, assert_same_run: SameRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tiny(epochs=3, threads=1, output=str(tmp_path / "whole"))).path
    now = 1e9

    def back() -> float:
        nonlocal now
        now -= 86_400.0
        return now

    config = tiny(epochs=3, threads=1)
    with monkeypatch.context() as patched:
        patched.setattr("time.time", back)
        assert train_once(config, tmp_path).returncode == 0
        resume(tmp_path / "run")
    for file in (tmp_path / "run").iterdir():
        os.utime(file, (0, 0))
    assert load_run(tmp_path / "run").epoch == 3
    assert_same_run(whole, tmp_path / "run")
