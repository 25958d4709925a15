"""Run folders: read back as they were trained, refused in one line when they cannot be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fairtat.errors import UserError
from fairtat.training import TrainConfig, TrainResult, load_run, train
from fairtat.training.config import from_dict, load_yaml
from fairtat.training.run import RunFolder


@pytest.fixture
def outcome(tiny: Callable[..., TrainConfig]) -> TrainResult:
    return train(tiny(fairness={"targets": "cfps", "margins": "G-rob"}))


def test_a_run_is_read_back_as_it_was_trained(outcome: TrainResult, tiny: Callable[..., TrainConfig]) -> None:
    run = load_run(outcome.path)
    assert run.epoch == 2
    assert run.class_names == tuple("0123456789")
    asked = tiny(fairness={"targets": "cfps", "margins": "G-rob"})
    assert run.config == replace(asked, attack=replace(asked.attack, engine="eager"))  # what auto is for so short a run
    assert not run.model.training
    val = run.splits().val
    with torch.no_grad():
        accuracy = (run.model(val.floats(val.images)).argmax(1) == val.labels).double().mean()
    assert outcome.last is not None
    assert float(accuracy) == pytest.approx(outcome.last.val_clean.average)


def test_everything_in_the_folder_is_readable_without_fairtat(outcome: TrainResult) -> None:
    names = {file.name for file in outcome.path.iterdir()}
    assert names == {
        "config.yaml", "environment.json", "metrics.jsonl", "checkpoint.pt", "checkpoint.previous.pt", "best.pt",
        "model.safetensors", "best.safetensors",
    }  # fmt: skip
    assert from_dict(load_yaml(outcome.path / "config.yaml")) == load_run(outcome.path).config
    environment = json.loads((outcome.path / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    lines = [json.loads(line) for line in (outcome.path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert len(lines[1]["class_eps"]) == len(lines[1]["val_robust"]["per_class"]) == 10
    worst = min(range(10), key=lambda k: lines[1]["val_robust"]["per_class"][k])
    assert lines[1]["val_robust"]["worst_class"] == worst
    assert lines[1]["val_robust"]["worst_class_name"] == str(worst)


def damage(folder: Path, kind: str) -> Path:
    checkpoint = folder / "checkpoint.pt"
    if kind == "folder":
        return folder / "nothing"
    if kind == "file":
        return checkpoint
    if kind in ("checkpoint", "truncated"):
        (folder / "checkpoint.previous.pt").unlink()
    if kind == "checkpoint":
        checkpoint.unlink()
    elif kind == "truncated":
        checkpoint.write_bytes(checkpoint.read_bytes()[:-500])
    else:
        state = torch.load(checkpoint, weights_only=True)
        if kind == "format":
            state["format"] = 7
        elif kind == "weights":
            state["model"].popitem()
        elif kind == "config":
            state["config"]["attack"]["stpes"] = 3
        torch.save(state, checkpoint)
    return folder


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("folder", "no such run folder"),
        ("file", "no such run folder"),
        ("checkpoint", "holds no checkpoint.pt; expected the output folder of `fairtat train`"),
        ("truncated", "cannot be read; the file is truncated, damaged or not a checkpoint"),
        ("format", "checkpoint format 7, of another version of fairtat; this one reads format 2"),
        ("weights", "its weights do not fit model 'mlp'"),
        ("config", "unknown key 'attack.stpes'; did you mean 'attack.steps'?"),
    ],
)
def test_damaged_runs(outcome: TrainResult, kind: str, message: str) -> None:
    folder = damage(outcome.path, kind)
    with pytest.raises(UserError) as caught:
        load_run(folder)
    assert str(folder) in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_data_that_changed_since_the_training(tiny: Callable[..., TrainConfig], tmp_path: Path) -> None:
    file = tmp_path / "mine.npz"
    rng = np.random.default_rng(0)
    np.savez(file, images=rng.random((60, 4, 4), np.float32), labels=np.arange(60) % 3)
    run = load_run(train(tiny(data={"name": str(file), "test": 0.2}, epochs=1)).path)
    assert run.splits().test.image_shape == (1, 4, 4)
    np.savez(file, images=rng.random((60, 5, 4), np.float32), labels=np.arange(60) % 3)
    with pytest.raises(UserError, match=r"trained on 3 classes of images \(1, 4, 4\), but .* now holds 3 of"):
        run.splits()
    file.unlink()
    with pytest.raises(UserError, match="no such file"):
        run.splits()


def test_a_taken_folder_is_left_alone(tmp_path: Path, outcome: TrainResult, tiny: Callable[..., TrainConfig]) -> None:
    before = {file.name: file.read_bytes() for file in outcome.path.iterdir()}
    with pytest.raises(UserError, match="exists and is not empty; choose another --output"):
        train(tiny())
    assert {file.name: file.read_bytes() for file in outcome.path.iterdir()} == before
    with pytest.raises(UserError, match="is a file; choose another --output"):
        RunFolder.check_free(outcome.path / "config.yaml")
    shutil.rmtree(outcome.path)
    outcome.path.mkdir()
    assert RunFolder.check_free(outcome.path) == outcome.path
