"""Runs the phases of a long check, each in a process of its own with a time limit, under one deadline.

A phase that fails or runs out of time is recorded, and the rest goes on; after every phase the record is handed out,
so whatever ends the whole loses nothing that was found. Standard library only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

SKIP = 77  # the exit code of a phase that has nothing to do here; its last line says why
TAIL = 4000  # characters of output that are kept of a phase that did not pass
TOO_LITTLE = 5.0  # seconds: with less left, a phase is not begun
POLL = 0.05

Verdict = Literal["passed", "failed", "timed out", "skipped", "no time left"]
GOOD = ("passed", "skipped")


@dataclass(frozen=True)
class Phase:
    """One command. It passes if it exits with 0 and ``collect`` (which reads what it left behind) does not object."""

    name: str
    command: Sequence[str]
    limit: float  # seconds
    environment: Mapping[str, str] = field(default_factory=dict)
    collect: Callable[[], Any] | None = None  # the phase's result as JSON values; a ValueError fails the phase
    untimed: bool = False  # measures no time, so that it may run beside its untimed neighbours
    always: bool = False  # runs also after the deadline
    skip: str = ""  # why there is nothing to run


@dataclass
class _Running:
    phase: Phase
    process: subprocess.Popen[bytes]
    log: Path
    begin: float
    limit: float


def run_phases(
    phases: Sequence[Phase],
    *,
    deadline: float,
    folder: Path,
    record: Callable[[list[dict[str, Any]]], None],
    say: Callable[[str], None] = print,
) -> list[dict[str, Any]]:
    """Run the phases in order until ``deadline`` seconds are over; one JSON object each.

    Args:
        deadline: seconds from now; no phase but those that ``always`` run outlives it.
        folder: where the phases' output goes, NAME.log each.
        record: called with all objects so far after every phase.
    """
    end = time.monotonic() + deadline
    outcomes: list[dict[str, Any]] = []
    for group in groups(phases):
        running: list[_Running] = []
        try:
            for phase in group:
                left = end - time.monotonic()
                if phase.skip:
                    outcomes.append(_outcome(phase, "skipped", 0.0, detail=phase.skip))
                elif left < TOO_LITTLE and not phase.always:
                    outcomes.append(_outcome(phase, "no time left", 0.0, detail=f"{max(left, 0.0):.0f} s were left"))
                else:
                    say(f"{phase.name} ...")
                    running.append(_start(phase, phase.limit if phase.always else min(phase.limit, left), folder))
                    continue
                say(summary(outcomes[-1]))
                record(outcomes)
            while running:
                time.sleep(POLL)
                for one in list(running):
                    ended = _ended(one)
                    if ended is not None:
                        running.remove(one)
                        outcomes.append(ended)
                        say(summary(ended))
                        record(outcomes)
        finally:  # an interrupt leaves no process behind
            for one in running:
                _kill(one.process)
    return outcomes


def groups(phases: Sequence[Phase]) -> list[list[Phase]]:
    """Neighbours that are untimed together, every other phase by itself."""
    made: list[list[Phase]] = []
    for phase in phases:
        if made and phase.untimed and made[-1][-1].untimed:
            made[-1].append(phase)
        else:
            made.append([phase])
    return made


def summary(outcome: Mapping[str, Any]) -> str:
    line = f"{outcome['name']}: {outcome['outcome']}, {outcome['seconds']:.1f} s"
    return line + (f": {outcome['detail']}" if outcome.get("detail") else "")


def _start(phase: Phase, limit: float, folder: Path) -> _Running:
    log = folder / f"{phase.name}.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            list(phase.command),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **phase.environment},
            start_new_session=True,  # so that its children end with it
        )
    return _Running(phase, process, log, time.monotonic(), limit)


def _ended(one: _Running) -> dict[str, Any] | None:
    """The outcome of a phase that has ended or has to, or None."""
    seconds = time.monotonic() - one.begin
    code = one.process.poll()
    if code is None and seconds < one.limit:
        return None
    if code is None:
        _kill(one.process)
    output = one.log.read_text(encoding="utf-8", errors="replace")
    last = (output.strip().splitlines() or [""])[-1]
    verdict: Verdict = "timed out" if code is None else {0: "passed", SKIP: "skipped"}.get(code, "failed")  # type: ignore[assignment]
    details = {"timed out": f"after its {one.limit:.0f} s", "skipped": last, "failed": f"exit code {code}: {last}"}
    made = _outcome(one.phase, verdict, seconds, detail=details.get(verdict, ""))
    if one.phase.collect is not None and verdict != "skipped":
        try:
            made["result"] = one.phase.collect()
        except (OSError, ValueError) as error:  # nothing was left behind, or it is no success
            if verdict == "passed":
                made |= {"outcome": "failed", "detail": str(error)}
    if made["outcome"] not in GOOD:
        made["tail"] = output[-TAIL:]
    return made


def _outcome(phase: Phase, verdict: Verdict, seconds: float, *, detail: str) -> dict[str, Any]:
    made = {"name": phase.name, "outcome": verdict, "seconds": round(seconds, 2), "limit_s": phase.limit}
    return made | ({"detail": detail} if detail else {})


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and everything that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
