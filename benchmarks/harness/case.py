"""The vocabulary of a benchmark: who competes, over what, and what counts as the same answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from torch import Tensor

T = TypeVar("T")
# Whose code a contestant is. The README compares fairtat with the fastest contestant of each role.
Role = Literal["fairtat", "eager", "compile", "published", "peer", "floor"]
Device = Literal["cpu", "cuda"]
Outcome = Mapping[str, Tensor]  # the named results that a contestant is judged by
Verify = Callable[[str, Outcome], dict[str, float]]  # (contestant, outcome) -> figures; raises Mismatch


class Unavailable(Exception):
    """A contestant cannot take part on this machine; the message says why."""


@dataclass(frozen=True)
class Settings:
    """What the command line asks of every case."""

    device: Device = "cpu"  # whose cases are run
    quick: bool = False
    rehearsal: bool = False  # a GPU's cases on a CPU, small, to see that they run
    processor_time: bool = False  # of one thread, where others keep the machine busy

    @property
    def place(self) -> Device:
        """Where the tensors are."""
        return "cpu" if self.rehearsal else self.device


@dataclass(frozen=True)
class Entrant:
    """A contestant that is ready to run."""

    run: Callable[[], object]  # what is timed; called any number of times
    outcome: Callable[[], Outcome] | None = None  # its answer from a fresh start; None for a floor, which has none
    share: float = 1.0  # of the work that is asked for, what one run does: 100 calls in a graph, or 0.1 of an epoch


def answers(name: str, run: Callable[[], Tensor]) -> Entrant:
    """An entrant whose run returns its answer, and begins afresh each time."""
    return Entrant(run, lambda: {name: run()})


@dataclass(frozen=True)
class Contestant(Generic[T]):
    """One way to compute a case. Made only when it takes part, so that a peer costs its import only then."""

    name: str
    role: Role
    make: Callable[[T], Entrant]  # from a case's inputs; ModuleNotFoundError and Unavailable report it as missing
    on: tuple[Device, ...] = ("cpu", "cuda")
    when: Callable[[Settings, T], bool] = lambda settings, inputs: True
    graph: bool = False  # on a GPU, whether its calls are timed inside a CUDA graph


@dataclass(frozen=True)
class Case(Generic[T]):
    """Inputs on which all contestants compute the same thing."""

    name: str
    inputs: Callable[[Settings, int], T]  # from a seed
    headline: bool = False  # shown in the README or in docs/performance.md
    quick: bool = False  # part of a smoke run
    device: Device = "cpu"
    in_other_processes: bool = False  # left out where only this one's processor time is counted
    cold: bool | None = None  # on a GPU, whether inputs rotate through more than its L2 cache; None: from 8 MiB on


@dataclass(frozen=True)
class Benchmark(Generic[T]):
    """One script: a question, those who compete, and the cases that answer it."""

    name: str
    question: str
    contestants: tuple[Contestant[T], ...]
    baseline: Mapping[Device, str]  # the contestant that ratios are taken to
    verify: Callable[[T], Verify]
    rule: str | Callable[[T], str]  # in words, what ``verify`` demands
    cases: tuple[Case[T], ...]
    bytes_moved: Callable[[T], int] | None = None  # that any implementation must read and write
    settings: dict[str, Any] = field(default_factory=dict)  # constants of the script, for the record
    memory: bool = False  # whether each contestant's largest use of memory is recorded
