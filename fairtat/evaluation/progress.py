"""How far an evaluation is: the accuracy so far, class by class, and about how much time is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from fairtat.engines.operations import BACKWARD
from fairtat.evaluation.attacks.kinds import ATTACKS
from fairtat.evaluation.attacks.pooled import stage_of
from fairtat.evaluation.attacks.settings import AttackSettings
from fairtat.evaluation.cache.answers import Answer

__all__ = ["Pace", "Planned", "Progress", "Standing", "Watch", "passes"]

Progress = Callable[[str, int, int], None]
"""Told (condition, images done, images to do) after each batch."""


@dataclass(frozen=True)
class Standing:
    """An evaluation that is under way.

    Attributes:
        condition: what is being computed.
        done, total: its images (times targets, of a targeted sweep); what other processes do meanwhile is estimated.
        seconds_left: of the whole evaluation, estimated from the passes through the model that are left and the time
            that those so far took; None before the first batch.
        accuracy: gives (C,) float64, each class's accuracy under the condition as the images so far let expect it; NaN
            where there are none, None for what has no accuracy.
    """

    condition: str
    done: int
    total: int
    seconds_left: float | None
    accuracy: Callable[[], np.ndarray | None]


Watch = Callable[[Standing], None]


@dataclass(frozen=True)
class Planned:
    """A question to come: passes forward per image and round, and whether it is asked of right images alone."""

    passes: float
    active: bool = False
    rounds: int = 1


def passes(settings: AttackSettings, classes: int) -> float:
    """At most so many passes forward an attack costs per image; one forward and back counts as `BACKWARD`."""
    kind = ATTACKS[settings.attack]
    if kind.pooled:
        return stage_of(settings).passes(classes)
    return float(max(1, settings.steps) * settings.restarts * (BACKWARD if kind.gradient else 1))


class Pace:
    """Observes the answers, and tells ``progress`` and ``watch`` after each batch how far the evaluation is."""

    def __init__(
        self,
        plan: Mapping[Hashable, Planned],
        label: np.ndarray,
        classes: int,
        *,
        processes: int = 1,
        progress: Progress | None = None,
        watch: Watch | None = None,
    ) -> None:
        self._plan = dict(plan)
        self._label, self._classes = label, classes
        self._processes = processes
        self._progress, self._watch = progress, watch
        self._active = float(len(label))  # images still right, as far as is known
        self._spent = self._work = self._share = 0.0
        self._mark = time.monotonic()

    def began(self, answer: Answer) -> None:
        """Before the first batch of an answer; what was planned before it has been answered already."""
        if answer.key in self._plan:
            while next(iter(self._plan)) != answer.key:
                del self._plan[next(iter(self._plan))]
        if self._planned(answer).active:
            self._active = len(answer.done)
        self._share = (answer.total - answer.finished) / self._processes  # that is left for this process
        self._mark = time.monotonic()
        self._tell(answer)

    def advanced(self, answer: Answer, items: int) -> None:
        """After a batch of so many items."""
        now = time.monotonic()
        self._spent, self._mark = self._spent + now - self._mark, now
        self._work += items * self._planned(answer).passes
        self._share = max(0.0, min(self._share - items, answer.total - answer.finished))
        if self._progress is not None:
            self._progress(answer.name, answer.finished, answer.total)
        self._tell(answer)

    def _planned(self, answer: Answer) -> Planned:
        return self._plan.get(answer.key, Planned(1.0))

    def _tell(self, answer: Answer) -> None:
        if self._watch is not None:
            left, accuracy = self._seconds_left(answer), partial(self._accuracy, answer)
            # The others have done about as much, which this process hears of at the end.
            done = max(answer.finished, round(answer.total - self._share * self._processes))
            self._watch(Standing(answer.name, done, answer.total, left, accuracy))

    def _seconds_left(self, answer: Answer) -> float | None:
        if not self._work:
            return None
        now, right = self._planned(answer), self._active
        if now.active and answer.finished:
            right *= float(self._right(answer)[answer.done > 0].mean())
        later = sum(
            planned.passes * planned.rounds * (right if planned.active else len(self._label))
            for key, planned in self._plan.items()
            if key != answer.key
        )
        return (self._share * now.passes + later / self._processes) * self._spent / self._work

    def _right(self, answer: Answer) -> np.ndarray:
        """(items,) bool: which are right as they stand."""
        assert answer.rows is not None
        return np.asarray(answer.arrays["pred"][answer.rows] == self._label[answer.rows])

    def _accuracy(self, answer: Answer) -> np.ndarray | None:
        """Images that the condition is not asked of are as they were; the share of the others is that of those done."""
        if "pred" not in answer.arrays or answer.rows is None:
            return None
        right, label = self._right(answer), self._label[answer.rows]
        known = answer.done > 0
        n = np.bincount(self._label, minlength=self._classes)
        asked = np.bincount(label, minlength=self._classes)
        tried = np.bincount(label[known], minlength=self._classes)
        held = np.bincount(label[known & right], minlength=self._classes)
        others = np.ones(len(self._label), bool)
        others[answer.rows] = False
        others &= answer.arrays["pred"] == self._label
        already = np.bincount(self._label[others], minlength=self._classes)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.where(asked > 0, already + asked * held / tried, already) / n)
