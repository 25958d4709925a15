"""A run where Python lacks what Windows lacks: `fcntl`, `resource`, and flags of `os.open`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PREPARE = """
import fcntl, os, sys, types
import torch, torch._dynamo  # which may use what is taken away below

def locking(descriptor, mode, count):
    # Windows locks bytes from where the file stands, and refuses with EACCES.
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, count, 0, os.SEEK_CUR)
    except BlockingIOError as error:
        raise PermissionError(13, "Permission denied") from error

sys.modules["msvcrt"] = types.SimpleNamespace(locking=locking, LK_NBLCK=2)
sys.modules["fcntl"] = sys.modules["resource"] = None
for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"):
    delattr(os, name)
unlink = os.unlink
def refuse_open_files(path, *args, **kwargs):
    open_files = [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if n.isdigit()
                  and os.path.exists(f"/proc/self/fd/{n}")]
    if os.path.realpath(path) in open_files:
        raise PermissionError(13, "used by this process")
    return unlink(path, *args, **kwargs)
os.unlink = refuse_open_files
"""

TRAIN = """
from pathlib import Path
from tiny_run import make_tiny
from fairtat.errors import UserError
from fairtat.training import dry_run, resume, train
from fairtat.training.run.lock import LOCK_NAME, lock_owner, run_lock

folder = Path(sys.argv[1])
config = make_tiny(output=str(folder), epochs=1)
assert dry_run(config).memory is None
assert train(config).epoch == 1
assert not (folder / LOCK_NAME).exists()
assert resume(folder).epoch == 1
with run_lock(folder):
    other = os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", os.environ["LOCK"], str(folder)])
    assert other == 3, other
(folder / LOCK_NAME).touch()  # left behind by a process that has died
assert lock_owner(folder) is None
(folder / LOCK_NAME).unlink()
link = folder / "elsewhere"
link.symlink_to("/dev/null")
from fairtat.files import open_own
try:
    open_own(link, os.O_WRONLY)
except UserError as error:
    assert "is a link" in str(error)
else:
    raise AssertionError("a link was followed")
"""

LOCK = """
from pathlib import Path
from fairtat.errors import UserError
from fairtat.training.run.lock import lock_owner, run_lock
assert lock_owner(Path(sys.argv[1])).startswith(f"process {os.getppid()} on")
try:
    run_lock(Path(sys.argv[1])).__enter__()
except UserError as error:
    assert f"process {os.getppid()} on" in str(error), error
    sys.exit(3)
"""


@pytest.mark.slow
def test_a_run_is_trained_locked_and_resumed(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PREPARE + TRAIN, str(tmp_path / "run")],
        env={"LOCK": PREPARE + LOCK, "PYTHONPATH": str(Path(__file__).parents[2] / "shared"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
