"""The vocabulary of a benchmark: who competes, over what, and what counts as the same answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

# Whose code a contestant is. The README compares fairtat with the fastest contestant of each role.
Role = Literal["fairtat", "eager", "compile", "published", "peer", "floor"]

Outcome = Mapping[str, Tensor]  # the named results that a contestant is judged by
Verify = Callable[[str, Outcome], dict[str, float]]  # (contestant, outcome) -> figures; raises Mismatch
Device = Literal["cpu", "cuda"]


class Unavailable(Exception):
    """A contestant cannot take part on this machine; the message says why."""


@dataclass(frozen=True)
class Settings:
    """What the command line asks of every case."""

    quick: bool = False
    device: Device = "cpu"  # where the tensors are
    rehearsal: bool = False  # a GPU's case on a CPU, small, to see that it runs


@dataclass(frozen=True)
class Entrant:
    """A contestant that is ready to run."""

    run: Callable[[], object]  # what is timed; called any number of times
    outcome: Callable[[], Outcome] | None = None  # its answer from a fresh start; None for a floor, which has none
    share: float = 1.0  # of the work that is asked for, what one run does: 100 calls in a graph, or 0.1 of an epoch


@dataclass(frozen=True)
class Contestant:
    """One way to compute a case. Built only when it takes part, so that a peer costs its import only then."""

    name: str
    role: Role
    build: Callable[[], Entrant]  # ModuleNotFoundError and Unavailable report the contestant as missing
    note: str = ""


@dataclass(frozen=True)
class Target:
    """A goal for a ratio of times, or for a time, reported as met or not met, never enforced.

    ``faster``: every one of ``others`` takes at least ``limit`` times as long as ``subject``.
    ``within``: ``subject`` takes at most ``limit`` times as long as every one of ``others``.
    ``seconds``: ``subject`` takes at most ``limit`` seconds; there are no others.
    """

    subject: str
    others: tuple[str, ...]
    kind: Literal["faster", "within", "seconds"]
    limit: float


@dataclass(frozen=True)
class Case:
    """One input on which all contestants compute the same thing."""

    contestants: tuple[Contestant, ...]
    baseline: str  # the contestant that ratios are taken to
    verify: Verify
    rule: str  # in words, what ``verify`` demands
    bytes_moved: int | None = None  # that any implementation must read and write
    targets: tuple[Target, ...] = ()
    observe: Callable[[Mapping[str, Entrant]], dict[str, Any]] | None = None  # further facts, after timing


@dataclass(frozen=True)
class CaseSpec:
    """A case by name, built when it is run."""

    name: str
    build: Callable[[Settings], Case]
    headline: bool = False  # shown in the README
    quick: bool = False  # part of a smoke run
    device: Device = "cpu"  # whose case it is


@dataclass(frozen=True)
class Benchmark:
    """One script: a question and the cases that answer it."""

    name: str
    question: str
    cases: tuple[CaseSpec, ...]
    settings: dict[str, Any] = field(default_factory=dict)  # constants of the script, for the record
