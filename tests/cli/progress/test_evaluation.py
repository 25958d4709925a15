"""What is shown while a model is evaluated: one line per minute in a file, a live line on a terminal."""

from __future__ import annotations

import io
import threading
import time

import numpy as np
import pytest
from clocks import Clock
from rich.console import Console

from fairtat.cli.progress import evaluation
from fairtat.cli.progress.evaluation import observe
from fairtat.evaluation.progress import Standing

NAMES = ("cat [red]", "dog", "bird", "ship", "truck")
ACCURACY = np.array([0.5, 0.25, np.nan, 0.75, 0.125])


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(now=1000.0)
    monkeypatch.setattr(evaluation, "time", clock)
    return clock


def standing(done: int, left: float | None = 300.0, accuracy: np.ndarray | None = ACCURACY) -> Standing:
    return Standing("pgd-20", done, 10_000, left, lambda: accuracy)


def plain() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=40, highlight=False)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_without_a_terminal_there_is_a_line_a_minute(clock: Clock) -> None:
    console = plain()
    with observe("runs/at", NAMES, console) as watch:
        for second in range(0, 181, 20):
            clock.now = 1000.0 + second
            watch(standing(10 * second))
    assert text_of(console).splitlines() == [
        f"runs/at: pgd-20: {done:,} of 10,000, about 5 min left, "
        "worst so far 12.5% (truck), 25.0% (dog), 50.0% (cat [red])"
        for done in (600, 1200, 1800)
    ]


def test_a_batch_that_takes_long_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "LINE_SECONDS", 0.01)
    console = plain()
    with observe("runs/at", NAMES, console) as watch:
        watch(Standing("cw-l2@0.5", 0, 256, None, lambda: None))  # and no more
        give_up = time.monotonic() + 60
        while text_of(console).count("\n") < 2 and time.monotonic() < give_up:
            time.sleep(0.01)
    assert text_of(console).startswith("runs/at: cw-l2@0.5: 0 of 256\n" * 2)
    assert "fairtat-progress" not in {thread.name for thread in threading.enumerate()}


def test_what_is_not_known_is_left_out(clock: Clock) -> None:
    console = plain()
    with observe("m", NAMES, console) as watch:
        for accuracy in (None, np.full(5, np.nan)):
            clock.now += 60
            watch(standing(0, None, accuracy))
    assert text_of(console) == "m: pgd-20: 0 of 10,000\n" * 2


def test_a_terminal_shows_the_worst_class_and_looks_once_a_second(clock: Clock) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=200, highlight=False, color_system=None)
    looks = []

    def accuracy() -> np.ndarray:
        looks.append(clock.now)
        return ACCURACY

    with observe("runs/at", NAMES, console) as watch:
        for tenth in range(25):
            clock.now = 1000.0 + tenth / 10
            watch(Standing("pgd-20", tenth, 25, 300.0, accuracy))
    assert looks == [1000.0, 1001.0, 1002.0]
    text = text_of(console)
    assert "runs/at: pgd-20" in text
    assert "about 5 min left, worst so far 12.5% (truck)" in text
    assert "dog" not in text


def test_a_short_evaluation_prints_no_line(clock: Clock) -> None:
    console = plain()
    with observe("m", NAMES, console) as watch:
        clock.now += 59
        watch(standing(9_999))
    assert text_of(console) == ""
