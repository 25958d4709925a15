"""What is shown: plain lines in a pipe, a live line on a terminal, and seldom a look at the device."""

from __future__ import annotations

import io
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.cells import cell_len
from rich.console import Console
from rich.progress import Progress, TextColumn

from fairtat import ClassStats
from fairtat.cli.progress import training
from fairtat.cli.progress.training import (
    LineLog,
    LiveProgress,
    dry_run_report,
    epoch_line,
    live_line,
    observe,
    start_line,
)
from fairtat.training import AveragedAccuracy, ClassAccuracy, DryRun, EpochMetrics, RunStart, StepProgress, TrainConfig


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


def test_averaged_weights_and_resumption_are_shown(start: RunStart) -> None:
    plain = metrics(3)
    robust = replace(plain.val_robust, average=0.625, worst=0.5, worst_class_name="dog")
    line = epoch_line(replace(plain, averaged=AveragedAccuracy(plain.val_clean, robust)), 12)
    assert "averaged  62.5%  worst  50.0% (dog)  1.2 s" in line
    assert start_line(start).endswith("cpu; runs/x")
    assert start_line(replace(start, epoch=3, processes=8)).endswith("cpu, 8 processes; runs/x, after epoch 3")


def test_what_the_engines_say_appears_among_the_lines(start: RunStart, capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("fairtat")
    before = (logger.level, logger.propagate, list(logger.handlers))
    with observe() as observer:
        observer.on_start(start)
        logger.info("engine 'compiled': built in %.1f s", 12.3)
        logger.debug("not for users")
        observer.on_epoch(metrics(1))
    logger.info("nobody listens any more")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == ["engine 'compiled': built in 12.3 s", epoch_line(metrics(1), 12)]
    assert (logger.level, logger.propagate, logger.handlers) == before


def test_durations_and_sizes_of_a_dry_run() -> None:
    config = TrainConfig(epochs=200)
    report = DryRun(
        config, torch.device("cpu"), 1, 1000, 50_000, 5_000, 391, 20, first_step=40.0, step=0.05, validation=1.45,
        memory=3_500_000_000, files={"checkpoint.pt": 90_000_000, "model.safetensors": 45_000_000},
    )  # fmt: skip
    assert report.epoch == pytest.approx(391 * 0.05 + 1.45)
    assert report.total == pytest.approx(40 + 200 * 21.0)
    text = dry_run_report(report)
    for words in ("50.0 ms", "first one 40.0 s", "21.0 s", "about 71 min for 200 epochs", "3.5 GB", "about 135.0 MB"):
        assert words in text


@pytest.mark.parametrize(
    ("settings", "native", "line"),
    [
        ({}, False, "precision   float32"),
        ({"amp": "bf16", "channels_last": True}, True, "precision   bf16, channels_last"),
        ({"amp": "bf16"}, False, "precision   bf16: this CPU has no instructions for bfloat16 and emulates it"),
    ],
)
def test_a_dry_run_tells_the_precision(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], native: bool, line: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native})
    report = DryRun(
        TrainConfig(**settings), torch.device("cpu"), 1, 1000, 50, 5, 1, 1, first_step=1.0, step=1.0, validation=1.0,
        memory=1, files={},
    )  # fmt: skip
    assert any(found.startswith(line) for found in dry_run_report(report).splitlines())


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
    monkeypatch.setattr(training, "REFRESH_SECONDS", 1e9)
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
    assert "robust  50.0%, worst   0.0% (dog)" in text
    assert "cat [red]" in text  # class names are text, not markup


LONG = (
    "Priority to through-traffic at the next intersection/crossroads only",
    "次の交差点でのみ直進交通が優先される道路",
    "e\u0301" * 40,
)


@pytest.mark.parametrize("columns", [60, 80, 160])
@pytest.mark.parametrize("worst", range(3))
def test_the_running_line_keeps_its_figures_beside_long_names(start: RunStart, columns: int, worst: int) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=columns, highlight=False, color_system=None)
    label = torch.tensor([0, 1, 2])
    logits = 5 * torch.nn.functional.one_hot((label + (label == worst).long()) % 3, 3).float()
    with live_line(console) as progress:
        live = LiveProgress(progress)
        live.on_start(replace(start, class_names=LONG, config=TrainConfig(epochs=200)))
        out.truncate(0)
        live.on_step(StepProgress(100, 5, 5, ClassStats(3).update(logits, label)))
        progress.refresh()
    line = [part for part in out.getvalue().replace("\r", "\n").splitlines() if "robust" in part][-1]
    line = line.replace("\x1b[2K", "")
    assert cell_len(line) <= columns
    assert "robust  66.7%, worst   0.0%" in line
    assert line.rstrip().endswith(":--") or line.rstrip()[-1].isdigit()  # the time to go
    assert ("━" in line) == (columns == 160)
    assert ("(" in line) == (columns > 60)


def test_long_names_do_not_drown_the_line_of_an_epoch(start: RunStart, capsys: pytest.CaptureFixture[str]) -> None:
    robust = replace(metrics(1).val_robust, worst_class_name=LONG[0])
    log = LineLog()
    log.on_start(replace(start, class_names=LONG))
    log.on_epoch(replace(metrics(1), val_robust=robust, averaged=AveragedAccuracy(robust, robust)))
    line = capsys.readouterr().out.splitlines()[1]
    assert line.count("worst  25.0% (Priority to…sroads only)") == 2
    assert line.endswith("1.2 s")
