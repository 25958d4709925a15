"""Files from elsewhere that name code to run: nothing of it runs unless the person asks for it beside the file."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from fairtat.cli.main import main
from fairtat.data import load
from fairtat.errors import UserError
from fairtat.evaluation import Samples
from fairtat.training import TrainConfig, load_run, resume
from fairtat.training.config import to_yaml
from fairtat.training.run.checkpoint import load_checkpoint, save_checkpoint
from fairtat.weights import load_weights

Make = Callable[..., TrainConfig]

OWN = """
from pathlib import Path
from torch import nn
Path("it-ran").touch()
def net(num_classes, **kwargs):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
"""


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], bool]:
    """Whether a foreign file's code has run in the working directory, where modules are looked up."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return (tmp_path / "it-ran").exists


@pytest.fixture
def forged(request: pytest.FixtureRequest, finished: Path, tmp_path: Path) -> Path:
    """A copy of a run as if a (section, its changes) of its settings had come from elsewhere, beside code to run."""
    section, changes = request.param
    folder = shutil.copytree(finished, tmp_path / "run")
    for file in ("checkpoint.pt", "checkpoint.previous.pt", "best.pt"):
        state = load_checkpoint(folder / file, keys=frozenset())
        state["config"][section].update(changes)
        save_checkpoint(folder / file, state)
    (folder / "config.yaml").write_text(yaml.safe_dump(state["config"]))
    for file in ("theirs.py", "hubconf.py"):
        (tmp_path / file).write_text(OWN)
    return folder


@pytest.fixture
def assert_refused(
    tmp_path: Path, ran: Callable[[], bool], capsys: pytest.CaptureFixture[str]
) -> Callable[[list[str]], None]:
    """That a command ends with one line which says what to type, has run no foreign code and has made no copy."""

    def check(words: list[str]) -> None:
        assert main(words) == 2
        error = capsys.readouterr().err
        assert "; if you trust it, add --trust-model (in Python" in error
        assert error.count("\n") == 1
        assert not ran()
        assert not (tmp_path / "copy").exists()

    return check


CODE: list[tuple[str, dict[str, Any]]] = [
    ("model", {"name": "torch.hub:load", "options": {"repo_or_dir": ".", "model": "net", "source": "local"}}),
    ("model", {"name": "os:system", "options": {}}),
    ("model", {"name": "theirs:net", "options": {}}),
    ("model", {"name": "timm:resnet18", "options": {"checkpoint_path": "theirs.pth"}}),
    ("model", {"name": "timm:resnet18", "options": {"pretrained_cfg": {"file": "theirs.pth"}, "pretrained": True}}),
    ("data", {"name": "theirs:net"}),
]

CODE_OF_TRAINING: list[tuple[str, dict[str, Any]]] = [
    ("objective", {"name": "theirs:net"}),
    ("fairness", {"weights": "theirs:net"}),
]


@pytest.mark.fault(
    "a run folder from elsewhere names code to run",
    "evaluate, compare and resume refuse it, and say what to type if you trust it",
)
@pytest.mark.parametrize("forged", CODE, indirect=True)
def test_a_run_folder_names_no_code(forged: Path, assert_refused: Callable[[list[str]], None]) -> None:
    with pytest.raises(UserError, match=r"(be imported and run|names); if you trust it, add --trust-model"):
        load_run(forged)
    with pytest.raises(UserError, match=r"add --trust-model"):
        load_run(forged, weights="best")
    with pytest.raises(UserError, match=r"add --trust-model"):
        resume(forged)
    run = str(forged)
    for words in (
        ["evaluate", run],
        ["evaluate", run, "--checkpoint", "best"],
        ["compare", run, run + "/../run2"],
        ["train", "--resume", run],
        ["train", "--resume", run, "--device", "cpu"],
        ["train", "--config", run + "/config.yaml", "--output", "copy"],
        ["train", "--config", run + "/config.yaml", "--dry_run"],
    ):
        assert_refused(words)


@pytest.mark.parametrize("forged", CODE_OF_TRAINING, indirect=True)
def test_what_only_training_runs_is_refused_there(
    finished: Path, forged: Path, assert_refused: Callable[[list[str]], None]
) -> None:
    assert load_run(forged).epoch == load_run(finished).epoch  # which needs neither
    with pytest.raises(UserError, match=r"theirs:net would be imported and run; if you trust it, add --trust-model"):
        resume(forged, trust_model=["mlp", "theirs"])
    for words in (
        ["train", "--resume", str(forged)],
        ["train", "--resume", str(forged), "--model.name", "mlp"],
        ["train", "--config", f"{forged}/config.yaml", "--output", "copy"],
        ["train", "--config", f"{forged}/config.yaml", "--dry_run"],
    ):
        assert_refused(words)


def test_what_the_person_asks_for_runs(
    tiny: Make, tmp_path: Path, ran: Callable[[], bool], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.py").write_text(OWN)
    Path("mine.yaml").write_text(to_yaml(tiny(epochs=1, model={"name": "mine:net", "options": {}})))
    assert main(["train", "--config", "mine.yaml", "--output", "a", "--trust-model"]) == 0
    assert capsys.readouterr().out.endswith("fairtat evaluate a --trust-model\n")
    assert main(["train", "--config", "mine.yaml", "--output", "b", "--model.name", "mine:net"]) == 0
    assert main(["train", "--config", "mine.yaml", "--output", "c", "--model.name=mine:net"]) == 0
    assert ran()
    for words in (["evaluate", "a", "--trust-model"], ["evaluate", "a", "--model.name", "mine:net"]):
        assert main([*words, "--attacks", "fgsm"]) == 0
    assert main(["compare", "a", "b", "--trust-model", "--attacks", "fgsm"]) == 0
    assert load_run("a", trust_model=True).epoch == load_run("a", trust_model="mine:net").epoch == 1
    capsys.readouterr()
    assert main(["evaluate", "a", "--model.name", "other:net"]) == 2
    assert "a/checkpoint.pt: its model is 'mine:net', not 'other:net'" in capsys.readouterr().err


def test_a_name_that_is_typed_does_not_open_the_door_for_another(
    tiny: Make, ran: Callable[[], bool], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("theirs.py").write_text(OWN)
    Path("theirs.yaml").write_text(to_yaml(tiny(model={"name": "theirs:net", "options": {}})))
    assert main(["train", "--model.name", "mlp", "--config", "theirs.yaml"]) == 2
    assert "theirs.yaml: model theirs:net would be imported and run; if you trust it" in capsys.readouterr().err
    Path("hf.py").write_text(OWN)
    Path("theirs.yaml").write_text(to_yaml(tiny(model={"name": "hf:net", "options": {}})))
    assert main(["train", "--data.name", "hf:net", "--config", "theirs.yaml"]) == 2  # a set of Hugging Face
    assert "theirs.yaml: model hf:net would be imported and run; if you trust it" in capsys.readouterr().err
    assert not ran()


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("it-ran",)


def evil_zip(path: Path) -> None:
    torch.save({"format": 2, "epoch": 1, "model": Evil()}, path)


def evil_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"format": 2, "epoch": 1, "model": Evil()}))


@pytest.mark.fault(
    "a malicious pickle in the place of weights",
    "refused in one line; nothing of it runs",
)
@pytest.mark.parametrize("write", [evil_zip, evil_pickle])
def test_a_pickle_in_the_place_of_weights_runs_nothing(
    finished: Path, tmp_path: Path, ran: Callable[[], bool], write: Callable[[Path], None]
) -> None:
    folder = shutil.copytree(finished, tmp_path / "run")
    for name in ("checkpoint.pt", "checkpoint.previous.pt", "best.pt"):
        write(folder / name)
    for read in (
        lambda: load_run(folder),
        lambda: load_run(folder, weights="best"),
        lambda: resume(folder),
        lambda: load_weights(torch.nn.Linear(1, 1), folder / "checkpoint.pt"),
    ):
        with pytest.raises(UserError) as caught:
            read()
        assert "\n" not in str(caught.value)
    assert not ran()


def test_a_pickle_in_the_place_of_arrays_runs_nothing(tmp_path: Path, ran: Callable[[], bool]) -> None:
    evil = np.array([Evil()], dtype=object)
    np.savez(tmp_path / "data.npz", images=evil, labels=np.zeros(1, np.int64))
    with pytest.raises(UserError):
        load(str(tmp_path / "data.npz"))
    np.savez(tmp_path / "test.npz", conditions=np.array(["clean"]), primary=evil, sample_ids=evil)
    with pytest.raises(ValueError, match="holds no per-sample outcomes"):
        Samples.from_npz(tmp_path / "test.npz")
    assert not ran()


def test_yaml_makes_no_objects(tmp_path: Path, ran: Callable[[], bool], capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "theirs.yaml").write_text('model: !!python/object/apply:os.mkdir ["it-ran"]\n')
    assert main(["train", "--config", "theirs.yaml"]) == 2
    assert "theirs.yaml, line 1: not valid YAML" in capsys.readouterr().err
    assert not ran()


@pytest.mark.parametrize(
    ("section", "key"), [("model", "name"), ("data", "name"), ("objective", "name"), ("fairness", "weights")]
)
def test_the_file_of_a_section_names_no_code(
    tmp_path: Path, ran: Callable[[], bool], capsys: pytest.CaptureFixture[str], section: str, key: str
) -> None:
    Path("theirs.py").write_text(OWN)
    Path("section.yaml").write_text(yaml.safe_dump({key: "theirs:net"}))
    assert main(["train", f"--{section}", "section.yaml", "--dry_run"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not ran()
