"""Training and judging a study's models: what is still to do for each, worked off a few processes at a time."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from fairtat.errors import UserError
from fairtat.files import json_lines, parse_json, write_atomic
from fairtat.study.cost import passes_of_a_step
from fairtat.study.judge import evaluations_of, main_evaluation, next_question
from fairtat.study.plan import Cell, Study, settings_of
from fairtat.study.results import Results
from fairtat.training.api import stored_config
from fairtat.training.config import to_yaml
from fairtat.training.run import RunFolder

__all__ = ["Process", "Start", "emit_slurm", "launch", "next_command", "run_cells", "state_of"]

POLL_SECONDS = 0.2


class Process(Protocol):
    """What is needed of a `subprocess.Popen`."""

    def poll(self) -> int | None: ...
    def wait(self) -> int: ...
    def send_signal(self, sig: int) -> None: ...
    def kill(self) -> None: ...


Start = Callable[[Path, Sequence[str], int], Process]


def next_command(study: Study, cell: Cell, folder: Path, trust_model: bool = False) -> tuple[str, ...] | None:
    """The words after `python -m fairtat` that bring the model one step further; None when it is judged.

    Raises:
        UserError: the folder holds a run with other settings, or one whose checkpoints are damaged.
    """
    run = RunFolder(folder)
    trust = ("--trust_model",) if trust_model else ()
    if not run.checkpoint.exists() and not run.previous.exists():
        return ("train", "--config", str(_config_file(folder)), "--output", str(folder), *trust)
    stored, wanted = settings_of(stored_config(folder)), settings_of(cell.config)
    differing = [key for key, value in wanted.items() if stored.get(key) != value]
    # What "auto" has become is in the run's own settings.
    differing = [key for key in differing if wanted[key] != "auto"]
    if differing:
        key = differing[0]
        raise UserError(
            f"{folder}: {key} is {stored.get(key)!r}, but this study has {wanted[key]!r}; remove that folder or "
            "choose another --runs"
        )
    if run.load_last()[1]["epoch"] < cell.config.epochs:
        return ("train", "--resume", str(folder), *trust)
    question = next_question(study.judge, cell.config.epochs, folder)
    return None if question is None else ("evaluate", str(folder), *question, "--device", cell.config.device, *trust)


def state_of(study: Study, cell: Cell, folder: Path) -> str:
    """ "judged", "trained", "epoch 3 of 50" or "not begun"; the reason where the folder cannot be used."""
    try:
        words = next_command(study, cell, folder)
        if words is None:
            return "judged"
        if words[0] == "evaluate":
            return "trained"
        if "--resume" not in words:
            return "not begun"
        return f"epoch {RunFolder(folder).load_last()[1]['epoch']} of {cell.config.epochs}"
    except UserError as error:
        return str(error)


def run_cells(
    study: Study,
    cells: Sequence[Cell],
    runs: Path,
    results: Results | None,
    jobs: int,
    *,
    say: Callable[[str], None],
    trust_model: bool = False,
    start: Start | None = None,
) -> list[str]:
    """Bring every cell to its end, ``jobs`` at a time, and add each to ``results``; returns what failed.

    A cell that is in ``results`` and has no folder in ``runs`` is left alone: it was made elsewhere, and the results
    file carries all that the report needs, so that a study can continue where only that file has come along.

    On KeyboardInterrupt the processes are asked to stop, which keeps what they have, and are waited for.
    """
    start = launch if start is None else start
    waiting = deque(cell for cell in cells if results is None or cell not in results or (runs / cell.name).exists())
    if len(waiting) < len(cells):
        say(f"{len(cells) - len(waiting)} of {len(cells)} models are in {results.path} already")  # type: ignore[union-attr]
    active: dict[Cell, tuple[Sequence[str], Process]] = {}
    failures: list[str] = []
    progress = _Progress(len(waiting), say)

    def advance(cell: Cell, after: Sequence[str] | None) -> None:
        folder = runs / cell.name
        try:
            words = next_command(study, cell, folder, trust_model)
            if words is None:
                if results is not None and (after is not None or cell not in results or not results.has_training(cell)):
                    _collect(results, cell, folder)
                return progress.done(cell, folder, after is not None)
            if words == after:
                raise UserError(f"`fairtat {words[0]}` ended well, but left the work undone; see {log_of(folder)}")
        except UserError as error:
            failures.append(cell.name)
            return progress.failed(cell, str(error))
        _write_config(cell, folder)
        active[cell] = (words, start(folder, words, cell.config.threads or 1))
        return None

    try:
        while waiting or active:
            while waiting and len(active) < jobs:
                advance(waiting.popleft(), None)
            for cell, (words, process) in list(active.items()):
                code = process.poll()
                if code is None:
                    continue
                del active[cell]
                if code == 0:
                    advance(cell, words)
                else:
                    failures.append(cell.name)
                    progress.failed(
                        cell, f"`fairtat {words[0]}` ended with code {code}; see {log_of(runs / cell.name)}"
                    )
            if active:
                time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        _stop([process for _, process in active.values()], say)
        raise
    return failures


def launch(folder: Path, words: Sequence[str], threads: int) -> Process:
    """Start a command, its output in the model's log; the terminal's Ctrl-C reaches it through the study alone."""
    with log_of(folder).open("ab") as log:
        log.write(f"$ fairtat {shlex.join(words)}\n".encode())
        log.flush()
        return subprocess.Popen(
            [sys.executable, "-m", "fairtat", *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            start_new_session=True,
        )


def log_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.log")


def emit_slurm(study: Study, arguments: Sequence[str]) -> str:
    """An array job with one task per model; the results are collected by `fairtat study run` when it is over."""
    command = shlex.join(["fairtat", "study", "run", str(study.path), *arguments])
    return f"""#!/bin/bash
#SBATCH --job-name={study.name}
#SBATCH --array=0-{len(study.cells()) - 1}
#SBATCH --cpus-per-task={max(cell.config.threads or 1 for cell in study.cells())}
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
# Submit it again after a time limit or a failure: each task continues where it stopped. When all are done, collect with
#     {command}
exec {command} --cell "$SLURM_ARRAY_TASK_ID"
"""


def _config_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.yaml")


def _write_config(cell: Cell, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    content = to_yaml(cell.config).encode()
    write_atomic(_config_file(folder), lambda stream: stream.write(content))


def _collect(results: Results, cell: Cell, folder: Path) -> None:
    evaluations = evaluations_of(results.study.judge, cell.config.epochs, folder)
    assert evaluations is not None
    file = RunFolder(folder).metrics
    epochs = [value for _, value in json_lines(file.read_bytes(), file) if isinstance(value, dict)]
    if not epochs:
        raise UserError(f"{file}: holds no epoch")
    environment = RunFolder(folder).environment
    passes = None
    if results.passes_of(cell.arm.name) is None:
        with suppress(UserError):  # such as data that have gone since: the verdicts do not need them
            passes = passes_of_a_step(cell.config)
    results.add(cell, evaluations, epochs, parse_json(environment.read_bytes(), environment), passes)


def _stop(processes: Sequence[Process], say: Callable[[str], None]) -> None:
    say("stopping; what is computed is kept (Ctrl-C again ends it at once)")
    try:
        for process in processes:
            process.send_signal(signal.SIGINT)
        for process in processes:
            process.wait()
    except KeyboardInterrupt:
        for process in processes:
            process.kill()


class _Progress:
    """One line for every finished model, with the time that is left."""

    def __init__(self, total: int, say: Callable[[str], None]) -> None:
        self.left = self.total = total
        self.began, self.computed = time.monotonic(), 0
        self.say = say

    def done(self, cell: Cell, folder: Path, computed: bool) -> None:
        evaluation = main_evaluation(folder)
        worst = evaluation.robust.worst[1]
        figures = f"clean {evaluation.clean.average:.1%}, robust {evaluation.robust.average:.1%}, worst {worst:.1%}"
        self.computed += computed
        self._line(cell, figures + ("" if computed else ", was there"))

    def failed(self, cell: Cell, reason: str) -> None:
        self._line(cell, f"failed: {reason}")

    def _line(self, cell: Cell, text: str) -> None:
        self.left -= 1
        if self.left and self.computed:
            minutes = (time.monotonic() - self.began) / self.computed * self.left / 60
            text += f"; about {minutes:.0f} min left"
        self.say(f"[{self.total - self.left}/{self.total}] {cell.name:<24} {text}")
