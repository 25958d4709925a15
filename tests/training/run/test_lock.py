"""A run folder has one writer, and a dead one does not count."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fairtat.errors import UserError
from fairtat.training.run.lock import LOCK_NAME, run_lock

HOLD = """
import sys, time
from pathlib import Path
from fairtat.training.run.lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_another_process_is_named_and_a_dead_one_is_ignored(tmp_path: Path) -> None:
    process = hold(tmp_path)
    try:
        with pytest.raises(UserError, match=rf"process {process.pid} on .* is writing in this folder"):
            run_lock(tmp_path).__enter__()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert (tmp_path / LOCK_NAME).exists()  # nobody could remove it
    with run_lock(tmp_path):
        assert json.loads((tmp_path / LOCK_NAME).read_text())["pid"] != process.pid
    assert not (tmp_path / LOCK_NAME).exists()


def test_one_process_does_not_lock_twice(tmp_path: Path) -> None:
    with run_lock(tmp_path):
        with pytest.raises(UserError, match="this process is training in this folder already"):
            run_lock(tmp_path).__enter__()
        assert (tmp_path / LOCK_NAME).exists()
    with run_lock(tmp_path):
        pass


def test_children_do_not_keep_the_lock(tmp_path: Path) -> None:
    # A data loader's workers may live a little longer than their parent.
    with run_lock(tmp_path):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        process = hold(tmp_path)
        process.kill()
        process.wait()
    finally:
        child.kill()
        child.wait()
