"""A study's models as jobs of a cluster, through submitit."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fairtat.errors import UserError
from fairtat.optional import optional_import
from fairtat.study.runs import Process, Start, launch

__all__ = ["submitting"]


def submitting(folder: Path, parameters: Mapping[str, Any]) -> Start:
    """What starts a command as a job.

    Args:
        folder: for submitit's files.
        parameters: ``cluster`` ("slurm" or "local"; by default Slurm where it is installed), and whatever submitit's
            ``AutoExecutor.update_parameters`` takes, such as ``timeout_min`` and ``slurm_partition``.

    Raises:
        UserError: submitit is missing, or does not know a parameter.
    """
    submitit = optional_import("submitit", purpose="running a study's models as jobs", extra="submitit")
    chosen = dict(parameters)
    cluster = chosen.pop("cluster", None)
    if cluster not in (None, "slurm", "local"):
        raise UserError(f"--submit: cluster is {cluster!r}; expected slurm or local")
    try:
        submitit.AutoExecutor(folder=folder, cluster=cluster).update_parameters(**chosen)
    except Exception as error:  # of many kinds
        raise UserError(f"--submit: {' '.join(str(error).split())}") from error

    def start(run: Path, words: Sequence[str], threads: int) -> Process:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        executor.update_parameters(**{"name": run.name, "cpus_per_task": threads, **chosen})
        with _sigint_heard():
            return _Job(executor.submit(_work, run, words, threads))

    return start


@contextmanager
def _sigint_heard() -> Iterator[None]:
    """A process that is started in here hears SIGINT, by which submitit ends a local job.

    A shell's background ignores it, and so would all that comes of it.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _work(run: Path, words: Sequence[str], threads: int) -> int:
    """The job: the command, which is told when the job is to end, so that it keeps what it has."""
    process = launch(run, words, threads)
    for number in (signal.SIGINT, signal.SIGTERM):  # of submitit's own executor, and of Slurm
        signal.signal(number, lambda number, frame: process.send_signal(number))
    return process.wait()


class _Job:
    """A job, as `run_cells` sees a process."""

    def __init__(self, job: Any) -> None:
        self._job = job

    def poll(self) -> int | None:
        return self.wait() if self._job.done() else None

    def wait(self) -> int:
        self._job.wait()
        return 1 if self._job.exception() is not None else int(self._job.result())

    def send_signal(self, sig: int) -> None:
        self._job.cancel(check=False)

    def kill(self) -> None:
        self._job.cancel(check=False)
