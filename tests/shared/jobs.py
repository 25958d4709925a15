"""Jobs of several processes, as torchrun starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

# A script of a folder of tests imports what the tests share, as the tests do.
_PATHS = (str(Path(__file__).resolve().parent), os.environ.get("PYTHONPATH", ""))
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, _PATHS))}


@contextmanager
def started(processes: int, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """``python ARGUMENTS``, or a job of that many; nothing of it is left at the end."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    process = subprocess.Popen(
        [sys.executable, *(launcher if processes > 1 else []), *arguments],
        env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def wait_for(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)


every_strike = pytest.mark.parametrize("rank", [1, 0, None], ids=["SIGKILL-1", "SIGKILL-0", "SIGTERM"])


def strike(job: subprocess.Popen[str], rank: int | None) -> None:
    """SIGKILL for the process of a rank, or SIGTERM for the job."""
    if rank is None:
        job.send_signal(signal.SIGTERM)
    else:
        os.kill(workers_of(job.pid)[rank], signal.SIGKILL)


def workers_of(agent: int) -> list[int]:
    """Process ids of the job's processes, the first rank first."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(agent)], capture_output=True, text=True, check=True)
    return sorted(int(word) for word in found.stdout.split())
