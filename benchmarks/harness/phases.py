"""Commands one after another under a deadline: each has a time limit, and what it leaves behind is recorded."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

SKIP = 77  # the exit code of a phase that has nothing to do here; its last line says why
TAIL = 4000  # characters of output that are kept of a phase that did not pass
TOO_LITTLE = 5.0  # seconds: with less left, a phase is not begun
GOOD = ("passed", "skipped")


@dataclass(frozen=True)
class Phase:
    """One command. It passes if it exits with 0 and ``collect`` (which reads what it left behind) does not object."""

    name: str
    command: Sequence[str]
    limit: float  # seconds
    environment: Mapping[str, str] = field(default_factory=dict)
    collect: Callable[[], Any] | None = None  # the phase's result as JSON values; a ValueError fails the phase
    untimed: bool = False  # measures no time, so that it may run beside its untimed neighbors
    always: bool = False  # runs also after the deadline
    skip: str = ""  # why there is nothing to run


def run_phases(
    phases: Sequence[Phase],
    *,
    deadline: float,
    folder: Path,
    record: Callable[[list[dict[str, Any]]], None],
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Run the phases in order until ``deadline`` seconds are over; one JSON object each.

    Args:
        deadline: seconds from now; no phase except those that ``always`` run outlives it.
        folder: where the phases' output goes, NAME.log each.
        record: called with all objects so far after every phase.
    """
    end = time.monotonic() + deadline
    outcomes: list[dict[str, Any]] = []
    for group in groups(phases):
        running: list[subprocess.Popen[bytes]] = []
        with ThreadPoolExecutor(len(group)) as pool:
            try:
                begun = [pool.submit(_run, phase, end, folder, running, say) for phase in group]
                for future in as_completed(begun):
                    outcomes.append(future.result())
                    say(summary(outcomes[-1]))
                    record(outcomes)
            finally:  # an interrupt leaves no process behind
                for process in running:
                    _kill(process)
    return outcomes


def groups(phases: Sequence[Phase]) -> list[list[Phase]]:
    """Untimed neighbors together, every other phase alone."""
    numbered = groupby(enumerate(phases), lambda pair: -1 if pair[1].untimed else pair[0])
    return [[phase for _, phase in group] for _, group in numbered]


def summary(outcome: Mapping[str, Any]) -> str:
    line = f"{outcome['name']}: {outcome['outcome']}, {outcome['seconds']:.1f} s"
    return line + (f": {outcome['detail']}" if outcome.get("detail") else "")


def _run(
    phase: Phase, end: float, folder: Path, running: list[subprocess.Popen[bytes]], say: Callable[[str], None]
) -> dict[str, Any]:
    """The outcome of one phase, whose process is in ``running`` as long as it lives."""
    begin = time.monotonic()
    left = end - begin
    made: dict[str, Any] = {"name": phase.name, "outcome": "skipped", "seconds": 0.0, "limit_s": phase.limit}
    if phase.skip:
        return made | {"detail": phase.skip}
    if left < TOO_LITTLE and not phase.always:
        return made | {"outcome": "no time left", "detail": f"{max(left, 0.0):.0f} s were left"}
    say(f"{phase.name} ...")
    limit = phase.limit if phase.always else min(phase.limit, left)
    log = folder / f"{phase.name}.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            list(phase.command), stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **phase.environment},
            start_new_session=True,  # so that its children end with it
        )  # fmt: skip
    running.append(process)
    code: int | None = None
    with suppress(subprocess.TimeoutExpired):
        code = process.wait(limit)
    if code is None:
        _kill(process)
    running.remove(process)
    output = log.read_text(encoding="utf-8", errors="replace")
    last = (output.strip().splitlines() or [""])[-1]
    verdict = "timed out" if code is None else {0: "passed", SKIP: "skipped"}.get(code, "failed")
    details = {"timed out": f"after its {limit:.0f} s", "skipped": last, "failed": f"exit code {code}: {last}"}
    made |= {"outcome": verdict, "seconds": round(time.monotonic() - begin, 2)}
    made |= {"detail": details[verdict]} if verdict in details else {}
    if phase.collect is not None and verdict != "skipped":
        try:
            made["result"] = phase.collect()
        except (OSError, ValueError) as error:  # nothing was left behind, or it did not succeed
            if verdict == "passed":
                made |= {"outcome": "failed", "detail": str(error)}
    return made if made["outcome"] in GOOD else made | {"tail": output[-TAIL:]}


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and everything that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
