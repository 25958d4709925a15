"""Threads that need the same things take turns; those that share nothing do not wait."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(eq=False)
class _Claim:
    thread: int
    things: Set[int]

    def blocks(self, other: _Claim) -> bool:
        return self.thread != other.thread and not self.things.isdisjoint(other.things)


_changed = threading.Condition()
_held: list[_Claim] = []
_waiting: list[_Claim] = []


@contextmanager
def taking_turns(things: Set[int], thread: int | None = None) -> Iterator[None]:
    """Hold things, given by their ids, for a thread (default: this one), which waits until no other holds one of them.

    A thread may take again what it holds.

    Raises:
        RuntimeError: threads that hold what the others need would wait for each other forever.
    """
    claim = _Claim(threading.get_ident() if thread is None else thread, things)
    try:
        with _changed:
            _waiting.append(claim)
            try:
                while any(held.blocks(claim) for held in _held):
                    _check_end(claim)
                    _changed.wait()
                _held.append(claim)
            finally:
                _waiting.remove(claim)
        yield
    finally:
        with _changed:
            if claim in _held:  # it is not if waiting failed
                _held.remove(claim)
                _changed.notify_all()


def holds(things: Set[int]) -> bool:
    """Whether this thread holds these things."""
    thread = threading.get_ident()
    with _changed:
        return any(claim.thread == thread and things <= claim.things for claim in _held)


def _check_end(claim: _Claim) -> None:
    """Raise RuntimeError if a thread that blocks this claim waits, directly or not, for the thread that makes it."""
    seen: set[int] = set()
    claims = [claim]
    while claims:
        wanted = claims.pop()
        for thread in {held.thread for held in _held if held.blocks(wanted)} - seen:
            if thread == claim.thread:
                raise RuntimeError(
                    "attacks inside attacks wait for each other's models: let one thread attack those that share layers"
                )
            seen.add(thread)
            claims += [other for other in _waiting if other.thread == thread]
