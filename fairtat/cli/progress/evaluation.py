"""The output while a model is evaluated: a live line on a terminal, elsewhere one line per minute."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from fairtat.cli.progress.training import NAME, REFRESH_SECONDS, duration
from fairtat.evaluation.progress import Standing, Watch
from fairtat.text import shortened

__all__ = ["LINE_SECONDS", "observe"]

LINE_SECONDS = 60.0
"""Between two lines where there is no terminal; an evaluation that takes less time prints none."""

WORST = 3
"""Classes that a line names."""


@contextmanager
def observe(name: str, class_names: Sequence[str], console: Console | None = None) -> Iterator[Watch]:
    """A watcher of the evaluation of ``name`` that prints on ``console``, by default standard error."""
    console = console or Console(stderr=True, highlight=False)
    short = shortened(class_names, NAME)
    if not console.is_terminal:

        def say(standing: Standing) -> None:
            console.print(_line(name, standing, short), soft_wrap=True, markup=False)

        with _repeated(LINE_SECONDS, say) as told:
            yield told
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    figures = TextColumn("{task.fields[figures]}", markup=False)
    with Progress(*columns, figures, console=console, transient=True) as bar:
        task = bar.add_task(name, total=None, figures="")

        def count(standing: Standing) -> None:
            bar.update(task, figures=_figures(standing, short, worst=1))

        now_and_then = _every(REFRESH_SECONDS, count, at_once=True)

        def show(standing: Standing) -> None:
            about = f"{name}: {standing.condition}"
            bar.update(task, description=about, completed=standing.done, total=standing.total)
            now_and_then(standing)

        yield show


def _every(seconds: float, tell: Watch, *, at_once: bool = False) -> Watch:
    """``tell`` at most once in so many seconds, the first time after as many, or ``at_once``."""
    last = time.monotonic() - (seconds if at_once else 0.0)

    def told(standing: Standing) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= seconds:
            last = now
            tell(standing)

    return told


@contextmanager
def _repeated(seconds: float, tell: Watch) -> Iterator[Watch]:
    """`_every`, and what was said last once more after as many seconds: a batch may take longer than that."""
    lock, over = threading.Lock(), threading.Event()
    now_and_then, latest = _every(seconds, tell), None

    def told(standing: Standing) -> None:
        nonlocal latest
        with lock:
            latest = standing
            now_and_then(standing)

    def repeat() -> None:
        while not over.wait(seconds):
            with lock:
                if latest is not None:
                    now_and_then(latest)

    repeating = threading.Thread(target=repeat, name="fairtat-progress", daemon=True)
    repeating.start()
    try:
        yield told
    finally:
        over.set()
        repeating.join()


def _line(name: str, standing: Standing, class_names: Sequence[str]) -> str:
    figures = _figures(standing, class_names, worst=WORST)
    return f"{name}: {standing.condition}: {standing.done:,} of {standing.total:,}{figures and ', '}{figures}"


def _figures(standing: Standing, class_names: Sequence[str], *, worst: int) -> str:
    """The time left and the classes with the lowest accuracy so far; without what is not known yet."""
    parts = [] if standing.seconds_left is None else [f"about {duration(standing.seconds_left)} left"]
    accuracy = standing.accuracy()
    if accuracy is not None and not np.isnan(accuracy).all():
        lowest = [k for k in np.argsort(accuracy, kind="stable")[:worst] if not np.isnan(accuracy[k])]
        parts.append("worst so far " + ", ".join(f"{100 * accuracy[k]:.1f}% ({class_names[k]})" for k in lowest))
    return ", ".join(parts)
