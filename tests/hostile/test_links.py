"""Folders from elsewhere in which a file is a link, a pipe or a folder: nothing outside of them is written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fairtat.cli.main import main
from fairtat.errors import UserError
from fairtat.files import append_json_line, write_atomic
from fairtat.training import TrainConfig, load_run, resume, train

NAMES = (
    "run.lock", "config.yaml", "environment.json", "metrics.jsonl", "checkpoint.pt", "checkpoint.previous.pt",
    "model.safetensors", "best.pt", "best.safetensors",
)  # fmt: skip


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    file = tmp_path / "precious"
    file.write_bytes(b"not to be written")
    return file


@pytest.fixture
def begun(tiny: Callable[..., TrainConfig]) -> Path:
    """A run that stopped in its second epoch."""
    steps = 0

    def stop() -> bool:
        nonlocal steps
        steps += 1
        return steps > 15

    return train(tiny(), should_stop=stop).path


@pytest.mark.fault(
    "files of a foreign run folder are links to others",
    "nothing is written through them",
)
@pytest.mark.parametrize("link", [Path.symlink_to, Path.hardlink_to])
@pytest.mark.parametrize("name", NAMES)
def test_resuming_writes_through_no_link(
    begun: Path, precious: Path, name: str, link: Callable[[Path, Path], None]
) -> None:
    (begun / name).unlink(missing_ok=True)
    link(begun / name, precious)
    if name == "run.lock":
        with pytest.raises(UserError, match=r"run.lock: is a link or not a plain file"):
            resume(begun)
        (begun / name).unlink()
    assert resume(begun).epoch == 2
    assert precious.read_bytes() == b"not to be written"
    assert load_run(begun).epoch == 2


def test_a_pipe_is_not_waited_for(begun: Path) -> None:
    for name in ("metrics.jsonl", "run.lock", "config.yaml", "environment.json", "checkpoint.pt"):
        (begun / name).unlink(missing_ok=True)
        os.mkfifo(begun / name)
        if name in ("metrics.jsonl", "run.lock"):
            with pytest.raises(UserError, match=f"{name}: is a link or not a plain file"):
                resume(begun)
            (begun / name).unlink()
    assert resume(begun).epoch == 2


def test_a_temporary_name_that_is_taken_is_not_written(tmp_path: Path, precious: Path) -> None:
    (tmp_path / f".file.{os.getpid()}.tmp").symlink_to(precious)
    write_atomic(tmp_path / "file", lambda stream: stream.write(b"new"))
    assert (tmp_path / "file").read_bytes() == b"new"
    (tmp_path / "lines").symlink_to(precious)
    with pytest.raises(UserError, match="lines: is a link or not a plain file"):
        append_json_line(tmp_path / "lines", {"epoch": 1})
    assert precious.read_bytes() == b"not to be written"


@pytest.mark.parametrize("name", ["evaluation", "evaluation/parts"])
def test_evaluations_stay_in_the_folder(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    outside = tmp_path / "outside"
    outside.mkdir()
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).symlink_to(outside)
    assert main(["evaluate", str(run), "--attacks", "fgsm"]) == 2
    assert f"{run}/{name}: is a symbolic link, so nothing is written there; remove it" in capsys.readouterr().err
    assert not list(outside.iterdir())


def test_tensorboard_stays_in_the_folder(tiny: Callable[..., TrainConfig], begun: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (begun / "tensorboard").symlink_to(outside)
    with pytest.raises(UserError, match="tensorboard: is a symbolic link"):
        resume(begun, config=tiny(tensorboard=True))
    assert not list(outside.iterdir())
