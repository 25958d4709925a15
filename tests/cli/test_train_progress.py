"""What is shown: plain lines in a pipe, a live line on a terminal, and seldom a look at the device."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console
from rich.progress import Progress, TextColumn

from fairtat import ClassStats
from fairtat.cli import train_progress
from fairtat.cli.train_progress import LineLog, LiveProgress, epoch_line, observe
from fairtat.training import ClassAccuracy, EpochMetrics, RunStart, StepProgress, TrainConfig


def metrics(epoch: int) -> EpochMetrics:
    accuracy = ClassAccuracy(0.5, [0.25, 0.75], 0, "cat [red]", 0.25)
    return EpochMetrics(epoch, 0.1, 1.23, 2.5, accuracy, None, accuracy, accuracy, [0.1, 0.1], None)


@pytest.fixture
def start() -> RunStart:
    config = TrainConfig(epochs=12)
    return RunStart(Path("runs/x"), config, ("cat [red]", "dog"), 100, 20, 1234, torch.device("cpu"))


def test_an_epoch_is_one_line_of_constant_width() -> None:
    lines = [epoch_line(metrics(epoch), 12) for epoch in (1, 12)]
    assert len({len(line) for line in lines}) == 1
    assert lines[0] == (
        "epoch  1/12  lr 0.1     loss 2.5000  train robust  50.0%  "
        "val clean  50.0%  robust  50.0%  worst  25.0% (cat [red])  1.2 s"
    )


def test_without_a_terminal_there_are_plain_lines(start: RunStart, capsys: pytest.CaptureFixture[str]) -> None:
    with observe() as observer:
        assert type(observer) is LineLog
        observer.on_start(start)
        observer.on_step(StepProgress(1, 1, 5, ClassStats(2)))
        observer.on_epoch(metrics(1))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert "1,234 parameters" in lines[0]
    assert lines[1] == epoch_line(metrics(1), 12)


def test_a_terminal_gets_live_figures_and_the_same_lines(start: RunStart, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=200, highlight=False)
    reads = 0
    worst = ClassStats.worst

    def counted(stats: ClassStats) -> tuple[int, float]:
        nonlocal reads
        reads += 1
        return worst(stats)

    monkeypatch.setattr(ClassStats, "worst", counted)
    monkeypatch.setattr(train_progress, "REFRESH_SECONDS", 1e9)
    stats = ClassStats(2).update(torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1]))
    with Progress(TextColumn("{task.description} {task.fields[figures]}"), console=console, transient=True) as progress:
        live = LiveProgress(progress)
        live.on_step(StepProgress(1, 1, 5, stats))  # before the start: nothing to show it on
        live.on_start(start)
        for step in range(1, 6):
            live.on_step(StepProgress(1, step, 5, stats))
        progress.refresh()
        live.on_epoch(metrics(1))
    text = out.getvalue()
    assert reads == 1  # five steps within the refresh time: one read
    assert "training robust  50.0%, worst   0.0% (dog)" in text
    assert "cat [red]" in text  # class names are text, not markup
