"""What the engines that build something of a model have in common: when they serve, what they keep, how they check it.

`Engine.serve` attacks the samples of one pass, or returns False, and then the eager engine does: a model or an option
may be beyond an engine, a batch not worth a build, or what was built not compute what the model computes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import nn

from fairtat.engines.cache import MAX_FAILURES, Family, Record, record_of
from fairtat.engines.check import CHANGES, MISMATCH, FirstPass, Probe
from fairtat.engines.fallback import warn_once
from fairtat.engines.model.signature import Signature
from fairtat.engines.model.structure import ModelStructure
from fairtat.engines.samples import Results, Span, count
from fairtat.engines.steps import S, Steps


class Program(Protocol):
    """What was built of a model: some steps of a batch of one size, run as one."""

    @property
    def classes(self) -> int: ...
    @property
    def steps_per_run(self) -> int: ...


P = TypeVar("P", bound=Program)
_Found = tuple[str | None, Signature | None, Callable[[], ModelStructure]]


class Unsupported(Exception):
    """Why an engine can build nothing of a model."""


class OutOfMemory(Unsupported):
    """There was no memory to build something, which there may be at the next call."""


class Engine(ABC, Generic[S, P]):
    """An engine at work on one attack."""

    name: ClassVar[str]
    addresses_count: ClassVar[bool]  # whether a program is right only while the model's tensors stay where they are
    _structure: Callable[[], ModelStructure]
    record: Record[P]  # what is kept of it

    def __init__(self, steps: Steps[S], check: str, *, requested: bool = True) -> None:
        """``check``: as ``engine_check``. ``requested``: by name; else an engine waits for a batch to come twice."""
        self.steps = steps
        self.network = steps.network
        # What torch.compile wraps; the wrapper's own attributes say nothing of the model.
        self.model: Any = getattr(self.network.model, "_orig_mod", self.network.model)
        self._check = check
        self._requested = requested
        self._reason: str | None = None  # why the last pass was left to the eager engine

    def serve(self, spans: Sequence[Span], results: Results) -> bool:
        """Attack the samples of these spans and write their results; False: the eager engine has to."""
        if self.steps.number == 0:
            return False
        self._reason = self.steps.eager_only or self.unsupported_options() or self._unsupported_model()
        if self._reason is not None:
            return False
        self._reason, signature = self._look()
        if signature is None:
            return False
        self.record = record_of(self.model, self.name)
        settings = self._settings()
        family = self.record.family(settings, signature, self._check)
        size = None if family.unsupported else self.size_for(count(spans), family)
        while size is not None and family.unsupported is None:
            new = size not in family.programs
            if new:
                self._reason = self._build(size, spans, family)
                if self._reason is not None:
                    return False
            program = family.programs[size] if new else family.use(size)
            self.steps.check_classes(program.classes)
            if self._run(program, size, spans, family, results):
                return True
            # The program is no longer right, or never was.
            if new:
                family.unsupported = MISMATCH
            else:
                family = self.record.start_over(settings, signature, CHANGES)
        self._reason = family.unsupported
        return False

    def warn(self) -> None:
        """Say why the last pass was left to the eager engine, if this engine was requested."""
        if self._reason is not None and self._requested:
            warn_once(self.name, self.model, self._reason)

    def ran_eagerly(self, spans: Sequence[Span], seconds: float) -> None:
        """The eager engine has attacked these spans, which this one left to it, in so many seconds."""

    def size_for(self, n: int, family: Family[P]) -> int | None:
        """The size of the program that serves n samples; None: this batch is not worth one."""
        size = family.size_for(n, wait=not self._requested)
        # Padding would change batch statistics.
        return size if size == n or not self.network.state.mixes_samples else None

    def _unsupported_model(self) -> str | None:
        if isinstance(self.model, nn.Module):
            return None
        return f"the model is not a torch.nn.Module but a {type(self.model).__name__}, whose weights cannot be found"

    def _look(self) -> tuple[str | None, Signature | None]:
        """(Why it cannot be served, what the model is); as found by an earlier attack, if nothing has changed since."""
        looks = self.network.state.looks
        found: _Found | None = None if looks is None else looks.get(self.name)
        if found is None:
            self.network.state.freeze()
            structure = ModelStructure.of(self.model)
            reason = structure.unsupported() or self.unsupported_layers(structure)
            signature = None if reason else structure.signature(addresses=self.addresses_count)
            found = reason, signature, structure.kept()
            if looks is not None:
                looks[self.name] = found
        self._structure = found[2]
        return found[:2]

    @property
    def structure(self) -> ModelStructure:
        """Of the model, as it was when this pass began."""
        return self._structure()

    def _settings(self) -> Hashable:
        """All that a program depends on, except the model and the size of the batch."""
        device = self.steps.x.device
        autocast = torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type)
        return self.steps.settings(), device, autocast, self.network.input_dtype, self.environment()

    def _build(self, size: int, spans: Sequence[Span], family: Family[P]) -> str | None:
        """Add a program of this size to the family; or why there is none, which is kept unless it may pass."""
        self.network.state.before_call()
        try:
            program = self.build(size, spans)
        except Unsupported as reason:
            family.failures += 1
            if not isinstance(reason, OutOfMemory) or family.failures > MAX_FAILURES:
                family.unsupported = str(reason)
            return str(reason)
        if self.addresses_count:  # a first forward may have made what later ones find
            family.signature = ModelStructure.of(self.model).signature(addresses=True)
        family.add(size, program)
        return None

    def _run(self, program: P, size: int, spans: Sequence[Span], family: Family[P], results: Results) -> bool:
        """Make all steps; False: the program does not compute what the model computes, and has left no trace."""
        samples = self.start(program, size, spans, results)
        runs = self.steps.number // program.steps_per_run
        if family.needs_check(size, self._check):
            eager = FirstPass(self.steps, samples, self.structure.buffers.values())
            confirmed = eager.confirms(self.first_run(program, samples))
            if confirmed is False:
                return False
            if confirmed and self.steps.shrinks:  # whose steps are counted one by one
                eager.restore()
                confirmed = None
            if confirmed is None:
                self.steps.restart(samples)
            runs -= bool(confirmed)
        self.finish(program, samples, runs, results)
        family.confirmed.add(size)
        return True

    @abstractmethod
    def unsupported_options(self) -> str | None:
        """Why these options or this device are beyond this engine."""

    @staticmethod
    def unsupported_layers(structure: ModelStructure) -> str | None:
        """Why the model is, for a reason that is this engine's own."""
        return None

    @abstractmethod
    def environment(self) -> Hashable:
        """What a program depends on beside the attack and the model."""

    @abstractmethod
    def build(self, size: int, spans: Sequence[Span]) -> P:
        """A program for so many samples like these.

        Raises:
            Unsupported: there can be none of this model.
        """

    @abstractmethod
    def start(self, program: P, size: int, spans: Sequence[Span], results: Results) -> S:
        """The samples of these spans at their start, where the program works on them."""

    @abstractmethod
    def first_run(self, program: P, samples: S) -> Probe:
        """Run the program once; what its first step found before it moved."""

    @abstractmethod
    def finish(self, program: P, samples: S, runs: int, results: Results) -> None:
        """Run the program so many times more, and write the results."""
