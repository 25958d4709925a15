"""Results while they are computed: saved at intervals, reused where the model still answers as it did, reported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from fairtat.evaluation.cache.canary import Canary
from fairtat.evaluation.cache.store import AnswerStore
from fairtat.evaluation.samples import NONE

Progress = Callable[[str, int, int], None]
"""Told (condition, images done, images to do) after each batch."""


class Answers:
    """Where the answers of one evaluation come from.

    Attributes:
        reused, worked_out: names of the questions whose answers were reused and computed, in their order; one that was
            interrupted and finished is in both.
    """

    def __init__(self, store: AnswerStore, canary: Canary, progress: Progress | None = None) -> None:
        self.store = store
        self.canary = canary
        self.progress = progress
        self.reused: list[str] = []
        self.worked_out: list[str] = []

    def begin(
        self, question: Mapping[str, Any], name: str, arrays: Mapping[str, np.ndarray], total: int, *, gradient: bool
    ) -> Answer:
        """An answer of ``total`` work items that fill ``arrays``, with what is kept of it filled in.

        ``gradient``: whether it depends on the model's gradients. The array "pred" holds classes or `NONE`.
        """
        noted = self.canary.blank(gradient) if self.store.keeps else {}
        answer = Answer(self, question, name, arrays, noted, total)
        found = self.store.load(question, answer.kept_arrays, total)
        if found is not None and self._trusted(found[0]):
            for key, array in answer.kept_arrays.items():
                array[...] = found[0][key]
            answer.done = found[1]
            _once(self.reused, name)
        return answer

    def _trusted(self, arrays: Mapping[str, np.ndarray]) -> bool:
        pred = arrays.get("pred", np.array(NONE))
        in_range = ((pred >= NONE) & (pred < self.canary.num_classes)).all()
        return bool(in_range) and self.canary.agrees(arrays)


class Answer:
    """A context manager: what was computed is saved on exit, so that Ctrl-C costs one batch."""

    def __init__(
        self,
        answers: Answers,
        question: Mapping[str, Any],
        name: str,
        arrays: Mapping[str, np.ndarray],
        noted: Mapping[str, np.ndarray],
        total: int,
    ) -> None:
        self._answers, self._question, self._name = answers, question, name
        self._noted = noted
        self.kept_arrays = {**arrays, **noted}
        self.total = total
        self.done = 0
        self._changed = False

    def advance(self, done: int, x: Tensor | None = None) -> None:
        """``done`` work items are done now, the last ones with images x (n, ...) before the model."""
        answers, first = self._answers, self.done == 0
        self.done, self._changed = done, True
        if first and x is not None and self._noted:
            answers.canary.note(self._noted, x)
        _once(answers.worked_out, self._name)
        answers.store.save(self._question, self.kept_arrays, done, complete=False)
        if answers.progress is not None:
            answers.progress(self._name, done, self.total)

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._changed:
            self._answers.store.save(self._question, self.kept_arrays, self.done)


def _once(names: list[str], name: str) -> None:
    if name not in names:
        names.append(name)
