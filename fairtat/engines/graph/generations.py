"""Generations of captured steps: which of them share a stream and memory, and when those are given up.

The steps captured of a model never run at the same time, so they share a pool of memory. They also share the stream
that they were captured on: libraries keep workspaces for a stream, whose addresses are in each of its graphs. When a
graph is destroyed, PyTorch frees the workspaces of its stream, which other graphs may still use. So none is destroyed
before the others of its stream: a generation is retired as a whole, once nothing captured in it is left, and what is
captured after the first of them has gone begins another generation.

Source: pytorch issue 193402.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from fairtat.engines.base import Unsupported
from fairtat.engines.graph.runtime import GraphRuntime

if TYPE_CHECKING:
    from fairtat.engines.graph.captured import CapturedSteps

R = TypeVar("R")


class Generation:
    """Captured steps on one lane, which lives for as long as one of them."""

    def __init__(self, runtime: GraphRuntime) -> None:
        self.lane = runtime.new_lane()
        self._members: weakref.WeakSet[CapturedSteps] = weakref.WeakSet()
        self._joined = 0
        weakref.finalize(self, runtime.retire, self.lane).atexit = False

    @property
    def whole(self) -> bool:
        """Whether all that joined are still there."""
        return len(self._members) == self._joined

    def join(self, captured: CapturedSteps) -> None:
        self._members.add(captured)
        self._joined += 1


class SharedMemory:
    """What all graphs of a model on one device share: they never run at the same time."""

    def __init__(self, runtime: GraphRuntime) -> None:
        self.runtime = runtime
        self._generation: weakref.ref[Generation] | None = None  # the latest
        self._stream: Any = None  # that used it last

    def enter(self, captured: CapturedSteps) -> None:
        """Make captured steps ready for use on the current stream, which may be another than at its last use."""
        stream = self.runtime.stream()
        if self._stream is not None and self._stream != stream:
            self.runtime.wait_for(self._stream)
        self._stream = stream
        if captured.stream is None:
            captured.stream = stream
        elif captured.stream != stream:
            self.runtime.used_here(captured.tensors())

    def generation_for(self, captured: CapturedSteps) -> Generation:
        """The generation that new steps are captured in, and hold.

        Raises:
            Unsupported: the device has no stream left for another one.
        """
        latest = None if self._generation is None else self._generation()
        if latest is None or not latest.whole:
            try:
                latest = Generation(self.runtime)
            except RuntimeError as error:
                raise Unsupported(str(error)) from error
            self._generation = weakref.ref(latest)
        latest.join(captured)
        return latest

    def capture(self, function: Callable[[], R], generation: Generation) -> tuple[Callable[[], object], R]:
        """(What repeats one call, what that call returned) for memory that the others use as well.

        Raises:
            Unsupported: it cannot be captured.
            torch.OutOfMemoryError: there is no room for it.
        """
        try:
            with _uncollected():
                return self.runtime.capture(function, generation.lane)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a model or a device may raise
            summary = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            raise Unsupported(f"the model cannot be captured ({summary})") from error


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage is collected in here: what it frees may be work for a device, which a capture forbids."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
