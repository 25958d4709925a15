"""The files of a run: what a full disk, a crash and an old line leave behind."""

from __future__ import annotations

import errno
import json
import logging
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from torch import nn

import fairtat.files
from fairtat.errors import UserError
from fairtat.training import Number, TrainConfig, TrainingDiverged, TrainResult, load_run, resume, train
from fairtat.training.run import RunFolder
from fairtat.training.run.checkpoint import save_weights


class FullDisk:
    """Lets through so many bytes of the files that `fairtat.files` writes; then the disk is full."""

    def __init__(self, room: int) -> None:
        self.room = room

    def fsync(self, descriptor: int) -> None:
        found = os.fstat(descriptor)
        self.room -= 0 if stat.S_ISDIR(found.st_mode) else found.st_size
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("epochs_that_fit", [0.2, 1.1, 1.35, 1.5, 1.75, 1.9])
def test_a_full_disk_loses_nothing_and_the_run_goes_on_later(
    tiny: Callable[..., TrainConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    assert_same_run: Callable[[Path, Path], None],
    epochs_that_fit: float,
) -> None:
    # Whatever file of the second or third epoch is the first that does not fit.
    config = tiny(epochs=3, model={"name": "mlp", "options": {"width": 8}})
    whole = train(replace(config, output=str(tmp_path / "whole"))).path
    written = sum(file.stat().st_size for file in whole.iterdir() if file.name != "checkpoint.previous.pt")
    start = (whole / "checkpoint.pt").stat().st_size + (whole / "model.safetensors").stat().st_size + 2000
    with monkeypatch.context() as patched:
        disk = FullDisk(start + int(epochs_that_fit * written))
        patched.setattr(fairtat.files.os, "fsync", disk.fsync)
        with pytest.raises(UserError) as caught:
            train(config)
    message = str(caught.value)
    assert "\n" not in message
    assert "cannot be written (No space left on device)" in message
    saved = load_run(tmp_path / "run").epoch
    assert f"epoch {saved} is safe: make room, then continue with `fairtat train --resume" in message
    assert not list((tmp_path / "run").glob(".*"))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text() if saved else ""
    assert all(json.loads(line)["epoch"] for line in lines.splitlines())  # no half line
    resume(tmp_path / "run")
    assert_same_run(whole, tmp_path / "run")


def test_a_disk_that_is_full_from_the_start(tiny: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fairtat.files.os, "fsync", FullDisk(10).fsync)
    with pytest.raises(UserError, match=r"the start of the run cannot be written \(No space left on device\)"):
        train(tiny())


def untrained(config: TrainConfig) -> Path:
    return train(config, should_stop=lambda: True).path


def diverged(config: TrainConfig) -> Path:
    with pytest.raises(TrainingDiverged, match=r"epoch 1, step \d+ of \d+: .*; start again with the same --output"):
        train(replace(config, optim=replace(config.optim, lr=Number(1e30))))
    return Path(config.output or "")


def killed_before_its_checkpoint(config: TrainConfig) -> Path:
    folder = Path(config.output or "")
    folder.mkdir()
    (folder / "run.lock").write_text('{"pid": 1, "host": "elsewhere"}\n')
    (folder / ".checkpoint.pt.7.tmp").write_bytes(b"half")
    return folder


def killed_under_an_earlier_version(config: TrainConfig) -> Path:
    folder = untrained(config)
    for name in ("checkpoint.pt", "model.safetensors"):
        (folder / name).unlink()
    return folder


@pytest.mark.parametrize("leave", [untrained, diverged, killed_before_its_checkpoint, killed_under_an_earlier_version])
def test_a_run_that_finished_no_epoch_can_be_started_again(
    tiny: Callable[..., TrainConfig],
    tmp_path: Path,
    assert_same_run: Callable[[Path, Path], None],
    caplog: pytest.LogCaptureFixture,
    leave: Callable[[TrainConfig], Path],
) -> None:
    config = tiny(tensorboard=True)
    whole = train(replace(config, output=str(tmp_path / "whole"))).path
    folder = leave(config)
    with caplog.at_level(logging.WARNING, "fairtat"):
        assert train(config).path == folder
    assert f"warning: {folder}: replacing a run that did not finish its first epoch" in caplog.messages
    assert_same_run(whole, folder)
    assert len(list((folder / "tensorboard").iterdir())) == 1


@pytest.mark.parametrize("name", ["notes.txt", "metrics.jsonl", "best.pt", "tensorboard/notes.txt", "config.yaml/a"])
def test_whatever_else_lies_there_is_worth_keeping(tiny: Callable[..., TrainConfig], name: str) -> None:
    folder = untrained(tiny())
    file = folder / name
    if file.parent.is_file():
        file.parent.unlink()
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    with pytest.raises(UserError, match="exists and is not empty; choose another --output, or continue it with"):
        train(tiny())
    assert file.read_text() == "mine"


def test_a_lone_configuration_is_a_person_s_own(tiny: Callable[..., TrainConfig], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("epochs: 3\n")
    with pytest.raises(UserError, match="exists and is not empty; choose another --output"):
        train(tiny())


def test_a_run_killed_between_its_first_files_is_resumed(
    tiny: Callable[..., TrainConfig], tmp_path: Path, assert_same_run: Callable[[Path, Path], None]
) -> None:
    whole = train(tiny(output=str(tmp_path / "whole"))).path
    folder = untrained(tiny())
    for name in ("config.yaml", "environment.json", "model.safetensors"):
        (folder / name).unlink()
    resume(folder)
    assert_same_run(whole, folder)


def test_the_previous_checkpoint_stays(tiny: Callable[..., TrainConfig]) -> None:
    outcome: TrainResult = train(tiny(epochs=3))
    states = [
        torch.load(outcome.path / name, weights_only=True) for name in ("checkpoint.previous.pt", "checkpoint.pt")
    ]
    assert [state["epoch"] for state in states] == [2, 3]


def test_checkpoints_every_few_epochs_and_at_the_end(tiny: Callable[..., TrainConfig]) -> None:
    def stop() -> bool:
        return (folder / "metrics.jsonl").exists() and len((folder / "metrics.jsonl").read_text().splitlines()) == 3

    config = tiny(epochs=5, checkpoint_every=2)
    folder = Path(config.output or "")
    outcome = train(config, should_stop=stop)
    assert (outcome.epoch, outcome.interrupted) == (2, True)
    assert load_run(folder).epoch == 2
    assert resume(folder).epoch == 5
    assert load_run(folder).epoch == 5


def test_old_lines_are_dropped(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.drop_metrics_after(0)  # nothing there: nothing to do
    for epoch in (1, 2, 3):
        folder.append_metrics({"epoch": epoch})
    with folder.metrics.open("a") as stream:
        stream.write('{"epoch": 2')
    folder.drop_metrics_after(2)
    assert [json.loads(line)["epoch"] for line in folder.metrics.read_text().splitlines()] == [1, 2]
    folder.drop_metrics_after(0)
    assert folder.metrics.read_text() == ""


def test_weights_are_read_by_the_format_s_own_library(tmp_path: Path) -> None:
    from safetensors import safe_open

    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False), nn.BatchNorm1d(3))
    model[1].weight = model[0].weight  # tied, which the format by itself refuses
    save_weights(tmp_path / "w.safetensors", model.state_dict())
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        read = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    assert read.keys() == model.state_dict().keys()
    assert all(torch.equal(value, read[key]) for key, value in model.state_dict().items())


def test_a_crash_while_the_previous_file_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, keep = tmp_path / "file", tmp_path / "file.previous"

    def write(content: bytes, **options: Any) -> None:
        def to(stream: BinaryIO) -> None:
            stream.write(content)

        fairtat.files.write_atomic(file, to, **options)

    write(b"one", keep=keep)
    assert not keep.exists()
    write(b"two", keep=keep)
    write(b"three", keep=keep)
    assert (file.read_bytes(), keep.read_bytes()) == (b"three", b"two")

    def crash(self: Path, target: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "hardlink_to", crash)
        with pytest.raises(KeyboardInterrupt):
            write(b"four", keep=keep)
    assert (file.read_bytes(), keep.read_bytes()) == (b"three", b"two")

    def unsupported(self: Path, target: Path) -> None:
        raise OSError(errno.EOPNOTSUPP, "no hard links")

    monkeypatch.setattr(Path, "hardlink_to", unsupported)
    write(b"four", keep=keep)
    assert (file.read_bytes(), keep.read_bytes()) == (b"four", b"three")
    assert {path.name for path in tmp_path.iterdir()} == {"file", "file.previous"}
