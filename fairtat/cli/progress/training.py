"""The output while a model trains: one line per epoch, and on a terminal a live line below them."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fairtat.devices import slow_bf16
from fairtat.fairness import ClassStats
from fairtat.text import shortened
from fairtat.training import ClassAccuracy, DryRun, EpochMetrics, Observer, RunStart, StepProgress

__all__ = ["LineLog", "LiveProgress", "dry_run_report", "observe"]

REFRESH_SECONDS = 1.0  # how often the running figures are read from the device: each read waits for it
BAR = 16
NAME = 24  # columns of a class's name in a line
SHORTEST = 4  # of which a name still says something


@contextmanager
def observe() -> Iterator[Observer]:
    """An observer for standard output: live on a terminal, plain lines in a file or a pipe.

    What fairtat logs meanwhile, such as how long an engine takes to compile, appears among the lines.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        lines = LineLog()
        with _logged(lines.write):
            yield lines
        return
    with live_line(console) as progress:
        live = LiveProgress(progress)
        with _logged(live.write):
            yield live


def live_line(console: Console) -> Progress:
    """The running epoch's line; where it does not fit, the bar is dropped first, and figures never are."""
    bar = [BarColumn(bar_width=BAR)] if console.width >= _LINE + BAR + 1 + NAME else []
    return Progress(
        TextColumn("{task.description}"),
        *bar,
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


_LINE = len("epoch 1000/1000 robust 100.0%, worst 100.0% () 10:00:00 10:00:00")
"""The columns of the line without its bar and the class's name."""


@contextmanager
def _logged(write: Callable[[str], None]) -> Iterator[None]:
    """Messages of the logger "fairtat" go to ``write``, from INFO on, and nowhere else."""
    logger = logging.getLogger("fairtat")
    handler = _LineHandler(write)
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


class _LineHandler(logging.Handler):
    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        self._write(record.getMessage())


class LineLog(Observer):
    """One line at the start and one per epoch."""

    def on_start(self, start: RunStart) -> None:
        self._epochs = start.config.epochs
        self._short = dict(zip(start.class_names, shortened(start.class_names, NAME), strict=True))
        self.write(start_line(start))

    def on_epoch(self, metrics: EpochMetrics) -> None:
        self.write(epoch_line(metrics, self._epochs, self._short))

    def write(self, line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


class LiveProgress(LineLog):
    """The lines of `LineLog`, and below them the running epoch with its training accuracy under attack."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None
        self._class_names: list[str] = []
        self._last_read = -math.inf

    def on_start(self, start: RunStart) -> None:
        super().on_start(start)
        self._class_names = self._fitted(start.class_names)
        self._task = self._progress.add_task("", total=start.config.epochs, figures="")

    def on_step(self, progress: StepProgress) -> None:
        if self._task is None:
            return
        self._progress.update(
            self._task,
            completed=progress.epoch - 1 + progress.step / progress.steps,
            description=f"epoch {progress.epoch}/{self._epochs}",
        )
        if time.monotonic() - self._last_read >= REFRESH_SECONDS:
            self._progress.update(self._task, figures=self._running_figures(progress.stats))
            self._last_read = time.monotonic()

    def write(self, line: str) -> None:
        self._progress.console.print(line, markup=False, soft_wrap=True)

    def _running_figures(self, stats: ClassStats) -> str:
        worst_class, worst = stats.worst()
        name = self._class_names[worst_class]
        return f"robust {_percent(float(stats.overall_accuracy))}, worst {_percent(worst)}{name and f' ({name})'}"

    def _fitted(self, names: tuple[str, ...]) -> list[str]:
        """The classes' names as far as the line has room for them; empty where it has none."""
        has_bar = any(isinstance(column, BarColumn) for column in self._progress.columns)
        room = self._progress.console.width - _LINE - (BAR + 1 if has_bar else 0)
        return shortened(names, min(room, NAME)) if room >= SHORTEST else [""] * len(names)


def start_line(start: RunStart) -> str:
    """What is about to be trained, and where it goes."""
    rules = start.config.fairness
    margins = rules.margins if isinstance(rules.margins, str) else "+".join(rules.margins)
    processes = f", {start.processes} processes" if start.processes > 1 else ""
    resumed = f", after epoch {start.epoch}" if start.epoch else ""
    return (
        f"{start.config.model.name} ({start.parameters:,} parameters) on {start.config.data.name}: "
        f"{start.train_samples} training and {start.val_samples} validation images, {len(start.class_names)} classes; "
        f"eps {start.config.attack.eps}, targets {rules.targets}, margins {margins}; "
        f"{start.device}{processes}; {start.path}{resumed}"
    )


def epoch_line(metrics: EpochMetrics, epochs: int, short: Mapping[str, str] | None = None) -> str:
    """The figures of one epoch in a line of constant layout; ``short`` has the classes' names for it."""
    named = short or {}
    robust: ClassAccuracy = metrics.val_robust
    averaged = ""
    if metrics.averaged is not None:
        mean = metrics.averaged.robust
        averaged = f"averaged {_percent(mean.average)}  worst {_percent(mean.worst)} ({_class(mean, named)})  "
    return (
        f"epoch {metrics.epoch:>{len(str(epochs))}}/{epochs}  lr {metrics.lr:<7.4g} loss {metrics.train_loss:6.4f}  "
        f"train robust {_percent(metrics.train_robust.average)}  "
        f"val clean {_percent(metrics.val_clean.average)}  robust {_percent(robust.average)}  "
        f"worst {_percent(robust.worst)} ({_class(robust, named)})  {averaged}{metrics.seconds:.1f} s"
    )


def _class(accuracy: ClassAccuracy, short: Mapping[str, str]) -> str:
    return short.get(accuracy.worst_class_name, accuracy.worst_class_name)


def dry_run_report(report: DryRun) -> str:
    """What `--dry_run` prints."""
    config, steps = report.config, report.steps_per_epoch
    names = ", ".join((*report.files, "metrics.jsonl", "config.yaml", "environment.json"))
    batch = f"batch {config.batch_size}" + (f" over {report.processes} processes" if report.processes > 1 else "")
    memory = "GPU memory" if report.device.type == "cuda" else "memory"
    return "\n".join(
        (
            f"model       {config.model.name}, {report.parameters:,} parameters, on {report.device}",
            f"precision   {_precision(report)}",
            f"data        {config.data.name}: {report.train_samples} training, {report.val_samples} validation images",
            f"a step      {duration(report.step)} ({batch}; median of {report.timed_steps}); "
            f"the first one {duration(report.first_step)}",
            f"an epoch    {duration(report.epoch)}: {steps} steps, then {duration(report.validation)} of validation",
            f"the run     about {duration(report.total)} for {config.epochs} epochs",
            f"{memory:<11} " + ("not counted here" if report.memory is None else f"{_size(report.memory)} at most"),
            f"disk        about {_size(sum(report.files.values()))} in {config.output}: {names}",
            "nothing was written",
        )
    )


def _precision(report: DryRun) -> str:
    amp, memory_format = report.config.amp, ", channels_last" if report.config.channels_last else ""
    slow = slow_bf16(report.device) if amp == "bf16" else None
    return {"none": "float32"}.get(amp, amp) + memory_format + (f": {slow}" if slow else "")


def duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1000 * seconds:.1f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _size(count: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"


def _percent(share: float) -> str:
    return f"{100 * share:5.1f}%"
