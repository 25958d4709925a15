"""Results while they are computed: saved, reused where the model still answers as it did, shared and reported."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from fairtat.evaluation.cache.canary import Canary
from fairtat.evaluation.cache.store import AnswerStore
from fairtat.evaluation.cache.team import ALONE, Team
from fairtat.evaluation.samples import NONE


class Observer(Protocol):
    """Who is told of an answer that is begun with something left to do, and after each of its batches."""

    def began(self, answer: Answer) -> None: ...
    def advanced(self, answer: Answer, items: int) -> None: ...


@dataclass(eq=False)
class Answers:
    """Where the answers of one evaluation come from.

    Attributes:
        team: the processes that share the work.
        deadline: of `time.monotonic`; no batch begins after it, nor one that is expected to end after it.
        over: whether a batch was given up for that, so that none of another answer takes its time.
        reused, worked_out: names of the questions whose answers were reused and computed, in their order; one that was
            interrupted and finished is in both.
    """

    store: AnswerStore
    canary: Canary
    observer: Observer | None = None
    team: Team = field(default=ALONE, kw_only=True)
    deadline: float | None = field(default=None, kw_only=True)
    over: bool = field(default=False, init=False)
    reused: list[str] = field(default_factory=list, init=False)
    worked_out: list[str] = field(default_factory=list, init=False)

    def begin(
        self,
        question: Mapping[str, Any],
        name: str,
        arrays: Mapping[str, np.ndarray],
        items: int,
        *,
        gradient: bool,
        rows: np.ndarray | None = None,
        rounds: int = 1,
        key: Hashable = None,
    ) -> Answer:
        """An answer of ``items`` work items that fill ``arrays``, with what is kept of it filled in.

        Args:
            gradient: Whether it depends on the model's gradients.
            rows: (items,) which row of the arrays each item fills; None: they belong to the only item as a whole.
            rounds: How often each item is worked on. The array "pred" holds classes or `NONE`.
            key: What the observer knows the question by; default its name.
        """
        noted = self.canary.blank(gradient) if self.store.keeps else {}
        answer = Answer(self, question, name, arrays, noted, rows, items, rounds, name if key is None else key)
        found = False
        for kept, done in self.store.load(question, answer.kept_arrays, items, rounds):
            if self._trusted(kept):
                found = True
                answer.take(kept, done)
        if answer.meet(found):
            _once(self.reused, name)
        return answer

    def _trusted(self, arrays: Mapping[str, np.ndarray]) -> bool:
        pred = arrays.get("pred", np.array(NONE))
        in_range = ((pred >= NONE) & (pred < self.canary.num_classes)).all()
        return bool(in_range) and self.canary.agrees(arrays)


class Answer:
    """A context manager: what was computed is saved on exit, so that Ctrl-C costs one batch.

    ``done`` (items,) int32 counts the rounds that each item has behind it.
    """

    def __init__(
        self,
        answers: Answers,
        question: Mapping[str, Any],
        name: str,
        arrays: Mapping[str, np.ndarray],
        noted: Mapping[str, np.ndarray],
        rows: np.ndarray | None,
        items: int,
        rounds: int,
        key: Hashable,
    ) -> None:
        self._answers, self._question = answers, question
        self.name, self.key, self.arrays, self._noted = name, key, arrays, noted
        self.kept_arrays = {**arrays, **noted}
        self.rows = rows
        self.rounds = rounds
        self.done = np.zeros(items, np.int32)
        self._news = np.zeros(items, bool)  # what this process knows and the others may not
        self._has_canary = False
        self._changed = False
        self._last_batch = 0.0

    @property
    def total(self) -> int:
        """Work items times rounds."""
        return len(self.done) * self.rounds

    @property
    def finished(self) -> int:
        """How many of `total` are done, as far as this process knows."""
        return int(self.done.sum())

    @property
    def complete(self) -> bool:
        return self.finished == self.total

    def batches(self, items: np.ndarray, batch_size: int) -> Iterator[np.ndarray]:
        """Items (n,) in batches, those of this process; fewer when the time is over. `advance` marks each as done."""
        answers, team = self._answers, self._answers.team
        for start in range(team.rank * batch_size, len(items), team.size * batch_size):
            began = time.monotonic()
            if answers.deadline is not None and began + self._last_batch >= answers.deadline:
                answers.over = True
            if answers.over:
                return
            yield items[start : start + batch_size]
            self._last_batch = time.monotonic() - began

    def advance(self, items: np.ndarray, rounds: int = 1, x: Tensor | None = None) -> None:
        """``items`` have so many rounds behind them now, with images x (n, ...) before the model in the last one."""
        answers = self._answers
        self.done[items] = rounds
        self._news[items] = True
        if not self._has_canary and x is not None and self._noted:
            answers.canary.note(self._noted, x)
            self._has_canary = True
        self._changed = True
        _once(answers.worked_out, self.name)
        answers.store.save(self._question, self.kept_arrays, self.done, due=False)
        if answers.observer is not None:
            answers.observer.advanced(self, len(items))

    def take(self, kept: Mapping[str, np.ndarray], done: np.ndarray) -> None:
        """Fill in what a stored part of this answer has further done than this one."""
        newer = np.flatnonzero(done > self.done)
        rows = slice(None) if self.rows is None else self.rows[newer]
        if len(newer):
            self._fill(newer, done[newer], {name: kept[name][rows] for name in self.arrays}, kept)
            self._news[newer] = True

    def _fill(
        self, items: np.ndarray, done: np.ndarray, part: Mapping[str, np.ndarray], noted: Mapping[str, np.ndarray]
    ) -> None:
        """``part`` holds the items' rows of each array."""
        rows = slice(None) if self.rows is None else self.rows[items]
        for name, array in self.arrays.items():
            array[rows] = part[name]
        self.done[items] = done
        if self._noted and not self._has_canary and set(self._noted) <= set(noted):
            for name, array in self._noted.items():
                array[...] = noted[name]
            self._has_canary = True

    def meet(self, flag: bool = False) -> bool:
        """Exchange what the processes have computed since they last met; returns whether any of them raises its flag.

        Afterwards all know the same.
        """
        team = self._answers.team
        if team.size == 1:
            return flag
        items = np.flatnonzero(self._news)
        rows = slice(None) if self.rows is None else self.rows[items]
        part = {name: array[rows] for name, array in self.arrays.items()} if len(items) else {}
        noted = self._noted if self._has_canary else {}
        told = team.gather((flag, items, self.done[items], part, noted))
        for rank, (_, theirs, done, their_part, their_noted) in enumerate(told):
            newer = done > self.done[theirs]
            if rank != team.rank and newer.any():
                chosen = slice(None) if self.rows is None else newer
                found = {name: array[chosen] for name, array in their_part.items()}
                self._fill(theirs[newer], done[newer], found, their_noted)
        self._news[:] = False
        return any(each[0] for each in told)

    def __enter__(self) -> Answer:
        if self._answers.observer is not None and not self.complete:
            self._answers.observer.began(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        answers = self._answers
        if self._changed:
            answers.store.save(self._question, self.kept_arrays, self.done)
        if kind is None and answers.team.size > 1 and self.meet(self._changed):
            _once(answers.worked_out, self.name)
            if answers.team.main:
                answers.store.finish(self._question, self.kept_arrays, self.done)


def _once(names: list[str], name: str) -> None:
    if name not in names:
        names.append(name)
