"""Checkpoints: what is written comes back, what is damaged is said to be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from fairtat.errors import UserError
from fairtat.training.run.checkpoint import FORMAT, load_checkpoint, save_checkpoint


def state(value: float = 1.0) -> dict[str, Any]:
    keys = ("fair", "scaler", "config")
    return {
        "epoch": 3,
        "model": {"weight": torch.full((100,), value)},
        "class_names": ["a", "ü"],
        "image_shape": [1, 2, 3],
        "optimizer": {"state": {}, "param_groups": []},
        "averaging": None,
        **{key: {} for key in keys},
    }


def test_round_trip(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    save_checkpoint(file, state())
    content = load_checkpoint(file)
    assert (content["format"], content["epoch"], content["class_names"]) == (FORMAT, 3, ["a", "ü"])
    assert torch.equal(content["model"]["weight"], torch.ones(100))


def test_a_failure_while_writing_keeps_the_previous_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "checkpoint.pt"
    save_checkpoint(file, state(1.0))

    def disk_full(number: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(OSError, match="no space left"):
        save_checkpoint(file, state(2.0))
    assert torch.equal(load_checkpoint(file)["model"]["weight"], torch.ones(100))
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("keep", [0, 1, 10, 0.3, 0.9, 0.999])
def test_truncated(tmp_path: Path, keep: float) -> None:
    file = tmp_path / "checkpoint.pt"
    save_checkpoint(file, state())
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    message = r"checkpoint.pt: (cannot be read; the file is truncated|damaged: its digest cannot be read)"
    with pytest.raises(UserError, match=message) as caught:
        load_checkpoint(file)
    assert "\n" not in str(caught.value)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("it-ran",)


def test_code_in_a_file_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 2, "model": Evil()}, "checkpoint.pt")
    with pytest.raises(UserError, match="cannot be read"):
        load_checkpoint(Path("checkpoint.pt"))
    assert not Path("it-ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"format": 1},
            "checkpoint format 1, of an older version of fairtat; this one reads format 2: use that version",
        ),
        ({"format": 3}, "checkpoint format 3, of another version"),
        ({"format": 2, "epoch": 3}, "the checkpoint lacks averaging, class_names, config, fair"),
        ({"state_dict": {}}, "not a fairtat checkpoint"),
        ([1, 2], "not a fairtat checkpoint"),
    ],
)
def test_other_files_of_torch(tmp_path: Path, content: object, message: str) -> None:
    file = tmp_path / "checkpoint.pt"
    torch.save(content, file)
    with pytest.raises(UserError, match=message):
        load_checkpoint(file)


@pytest.mark.parametrize(
    ("names", "clean"),
    [
        (["cat", "dog"], ["cat", "dog"]),
        (["\x1b[2Jcat", "do\u202eg\n"], ["[2Jcat", "dog"]),
        (["\x07", "b"], ["0", "b"]),
        (["a\x00", "a"], ["a (0)", "a (1)"]),
    ],
)
def test_class_names_are_cleaned(tmp_path: Path, names: list[str], clean: list[str]) -> None:
    """A file from elsewhere must not get its control characters to a terminal."""
    file = tmp_path / "checkpoint.pt"
    save_checkpoint(file, {**state(), "class_names": names})
    assert load_checkpoint(file)["class_names"] == clean


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "checkpoint.pt")
