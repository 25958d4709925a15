"""Jobs of several processes, as torchrun starts them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


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


def workers_of(agent: int) -> list[int]:
    """Process ids of the job's processes, the first rank first."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(agent)], capture_output=True, text=True, check=True)
    return sorted(int(word) for word in found.stdout.split())
