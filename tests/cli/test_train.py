"""``fairtat train``: files and options become a run; mistakes and interruptions end in one line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from fairtat.training import load_run

Command = Callable[..., Any]

SMALL = {
    "data": {"name": "digits", "val": 0.05, "test": 0.7},
    "model": {"name": "mlp", "options": {"width": 16}},
    "attack": {"eps": "8/255", "step_size": "2/255", "steps": 1},
    "eval": {"steps": 1},
    "epochs": 1,
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of its own with the configuration small.yaml."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    return tmp_path


def test_options_override_the_file(fairtat: Command) -> None:
    result = fairtat(
        "train", "--config", "small.yaml", "--epochs", "2", "--attack.eps", "1/8", "--attack.steps=2",
        "--fairness.targets", "cfps", "--fairness.margins", "[G-rob, T-rob]", "--model.options.width", "8",
        "--optim.lr", "5e-2", "--drop_last", "true", "--output", "out",
    )  # fmt: skip
    assert (result.code, result.err) == (0, "")
    config = load_run("out").config
    assert (config.epochs, config.attack.steps, config.drop_last) == (2, 2, True)
    assert str(config.attack.eps) == "1/8"
    assert str(config.attack.step_size) == "2/255"
    assert config.fairness.margins == ["G-rob", "T-rob"]
    assert config.model.options == {"width": 8}
    assert config.optim.lr == 0.05
    assert config.data.test == 0.7


def test_the_saved_configuration_repeats_the_run(fairtat: Command) -> None:
    assert fairtat("train", "--config", "small.yaml", "--output", "a").code == 0
    assert fairtat("train", "--config", "a/config.yaml", "--output", "b").code == 0

    def lines(run: str) -> list[dict[str, Any]]:
        read = [json.loads(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]
        return [{key: line[key] for key in line if not key.endswith(("seconds", "digest"))} for line in read]

    assert lines("a") == lines("b")


def test_the_folder_is_named_after_the_file(fairtat: Command) -> None:
    result = fairtat("train", "--config", "small.yaml")
    (run,) = Path("runs").iterdir()
    assert run.name.startswith("small-")
    assert result.out.splitlines()[-1] == f"trained 1 epoch; look at every class with: fairtat evaluate {run}"


def test_the_folder_of_stacked_files_is_named_after_all_of_them(fairtat: Command) -> None:
    Path("method.yaml").write_text("fairness: {targets: random}\n")
    result = fairtat("train", "--config", "small.yaml", "--config", "method.yaml")
    (run,) = Path("runs").iterdir()
    assert result.code == 0
    assert run.name.startswith("small-method-")
    config = load_run(run).config
    assert (config.fairness.targets, config.model.name) == ("random", "mlp")


def test_output_in_a_pipe_is_one_line_an_epoch(fairtat: Command) -> None:
    result = fairtat("train", "--config", "small.yaml", "--epochs", "3", "--output", "out")
    lines = result.out.splitlines()
    assert len(lines) == 5  # start, three epochs, closing
    assert all(word in lines[0] for word in ("mlp", "digits", "eps 8/255", "targets none", "out"))
    for epoch, line in enumerate(lines[1:4], start=1):
        assert line.startswith(f"epoch {epoch}/3 ")
        assert all(word in line for word in ("train robust", "val clean", "worst"))
    assert "\x1b" not in result.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "missing.yaml"], "missing.yaml: no such file"),
        (["--config", "key.yaml"], "key.yaml: unknown key 'attack.stpes'; did you mean 'attack.steps'?"),
        (["--config", "value.yaml"], "value.yaml: epochs is 0; expected 1 or more"),
        (["--config", "broken.yaml"], "not valid YAML"),
        (["--attack.stpes", "3"], "unknown option --attack.stpes; did you mean '--attack.steps'?"),
        (["--epocs=3"], "unknown option --epocs; did you mean '--epochs'?"),
        (["--attack.eps", "8/0"], "expected a number or a fraction such as 8/255"),
        (["--attack.eps", "__import__('os')"], "expected a number or a fraction such as 8/255"),
        (["--epochs", "many"], "--epochs: expected a whole number, got many"),
        (["--batch_size", "1"], "batch_size is 1; expected 2 or more"),
        (["--fairness.margins", "G-rop"], "did you mean 'G-rob'?"),
        (["--fairness.margins", "T-rob"], "targets must be random, cfps or confusion"),
        (["--data.name", "nan.npz"], "nan.npz: 1 of 30 images hold NaN or infinity (the first is image 4)"),
        (["--data.name", "label.npz"], "label.npz: labels lie in [0, 7]; expected 0 to 2"),
        (["--data.name", "text.npz"], "text.npz: cannot be read as an .npz file"),
        (["--data.name", "digts"], "did you mean 'digits'?"),
        (["--model.name", "mpl"], "did you mean 'mlp'?"),
        (["--device", "cuda:77"], "device is 'cuda:77'"),
        (["--output", "taken"], "taken: exists and is not empty; choose another --output"),
        (["--output", "small.yaml"], "small.yaml: is a file; choose another --output"),
        (["--output", "small.yaml/run"], "small.yaml/run: cannot be written"),
    ],
)
def test_mistakes_are_one_line_and_write_nothing(
    fairtat: Command, folder: Path, arguments: list[str], message: str
) -> None:
    (folder / "key.yaml").write_text("attack: {stpes: 3}")
    (folder / "value.yaml").write_text("epochs: 0")
    (folder / "broken.yaml").write_text("attack: {eps: 1")
    (folder / "text.npz").write_text("no archive")
    (folder / "taken").mkdir()
    (folder / "taken" / "notes.txt").write_text("mine")
    images, labels = np.full((30, 8, 8), 0.5, np.float32), np.arange(30) % 3
    np.savez(folder / "label.npz", images=images, labels=np.where(np.arange(30) == 5, 7, labels), class_names=[*"abc"])
    images[4, 2, 2] = np.nan
    np.savez(folder / "nan.npz", images=images, labels=labels)
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}

    base = [] if arguments[0] == "--config" else ["--config", "small.yaml"]
    code, out, err = fairtat("train", *base, *arguments)

    assert code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


COMMAND = "import sys; from fairtat.cli.main import main; sys.exit(main())"


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, "train", "--config", "small.yaml", "--output", "out", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_run_is_usable(folder: Path, number: signal.Signals) -> None:
    process = start("--epochs", "100000")
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch      3/"):
                break
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert err == ""
    last = out.splitlines()[-1]
    run = load_run("out")
    assert run.epoch >= 3
    assert last == (f"interrupted: out holds epoch {run.epoch} of 100000; continue with: fairtat train --resume out")
    epochs = [json.loads(text)["epoch"] for text in (folder / "out" / "metrics.jsonl").read_text().splitlines()]
    assert epochs == list(range(1, run.epoch + 1))
    assert {file.name for file in Path("out").iterdir()} == {
        "config.yaml", "environment.json", "metrics.jsonl", "checkpoint.pt", "checkpoint.previous.pt", "best.pt",
        "model.safetensors", "best.safetensors",
    }  # fmt: skip


def test_an_interrupted_run_goes_on_with_resume(fairtat: Command, folder: Path) -> None:
    assert fairtat("train", "--config", "small.yaml", "--epochs", "3", "--output", "whole").code == 0
    process = start("--epochs", "3", "--checkpoint_every", "1")
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("epoch 1/3"):
                break
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
    finally:
        process.kill()
    result = fairtat("train", "--resume", "out", "--device", "cpu")
    assert (result.code, result.err) == (0, "")
    assert "after epoch" in result.out.splitlines()[0]
    assert result.out.splitlines()[-1] == "trained 3 epochs; look at every class with: fairtat evaluate out"
    weights = [Path(run, "model.safetensors").read_bytes() for run in ("whole", "out")]
    assert weights[0] == weights[1]

    again = fairtat("train", "--resume", "out")
    assert (again.code, again.err) == (0, "")
    assert again.out == "nothing to do: out has all its 3 epochs; look at every class with: fairtat evaluate out\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume", "nowhere"], "nowhere: no such run folder"),
        (["--resume", "small.yaml"], "small.yaml: no such run folder"),
        (["--resume", "out", "--attack.eps", "0.5"], "out: attack.eps is 0.5, but this run was begun with 8/255"),
        (["--resume", "out", "--config", "other.yaml"], "out: seed is 3, but this run was begun with 0"),
        (["--resume", "out", "--epochs", "7"], "out: epochs is 7, but this run was begun with 1"),
    ],
)
def test_what_resume_refuses_is_one_line(fairtat: Command, folder: Path, arguments: list[str], message: str) -> None:
    assert fairtat("train", "--config", "small.yaml", "--output", "out").code == 0
    (folder / "other.yaml").write_text("seed: 3")
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    code, _, err = fairtat("train", *arguments)
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_a_dry_run_tells_the_cost_and_writes_nothing(fairtat: Command, folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    code, out, err = fairtat("train", "--config", "small.yaml", "--dry-run", "--output", "out")
    assert (code, err) == (0, "")
    assert sorted(folder.rglob("*")) == before
    assert all(word in out for word in ("mlp", "a step", "an epoch", "the run", "memory", "in out: checkpoint.pt"))
    assert out.splitlines()[-1] == "nothing was written"
    (folder / "out").mkdir()
    (folder / "out" / "mine").write_text("notes")
    assert (
        "out: exists and is not empty" in fairtat("train", "--config", "small.yaml", "--dry-run", "--output", "out").err
    )


def test_help_teaches(fairtat: Command) -> None:
    result = fairtat("train", "--help")
    assert result.code == 0
    for word in ("--resume RUN", "--dry_run", "torchrun --nproc-per-node", "model.safetensors", "--averaging.name"):
        assert word in result.out


def test_the_handlers_of_the_caller_come_back(fairtat: Command) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert fairtat("train", "--config", "small.yaml", "--output", "out").code == 0
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


OBSERVER = """
from fairtat.training import Observer

heard = []


class Own(Observer):
    def on_epoch(self, metrics):
        heard.append((metrics.epoch, metrics.val_robust.average))


class Other:
    pass


def needs(name):
    return Own()
"""


def test_an_observer_is_named_on_the_command_line(
    fairtat: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "own_observer.py").write_text(OBSERVER)
    monkeypatch.delitem(sys.modules, "own_observer", raising=False)
    code, out, err = fairtat("train", "--config", "small.yaml", "--observer", "own_observer:Own", "--output", "a")
    assert (code, err) == (0, "")
    assert "epoch 1/1" in out  # the lines are printed as ever
    metrics = [json.loads(line) for line in Path("a/metrics.jsonl").read_text().splitlines()]
    assert sys.modules["own_observer"].heard == [(1, metrics[0]["val_robust"]["average"])]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tensorbord", "--observer is 'tensorbord'; expected module:Class or wandb or mlflow"),
        ("own_observer:Other", "observer 'own_observer:Other' is a Other; expected a fairtat.training.Observer"),
        ("own_observer:needs", "observer 'own_observer:needs' cannot be made without arguments: needs() missing 1"),
        ("own_observer:Nobody", "module 'own_observer' has no function 'Nobody'"),
        ("nowhere:Own", "observer 'nowhere:Own': cannot import module 'nowhere'"),
    ],
)
def test_an_observer_that_is_none_is_a_line(
    fairtat: Command, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    (folder / "own_observer.py").write_text(OBSERVER)
    monkeypatch.delitem(sys.modules, "own_observer", raising=False)
    code, out, err = fairtat("train", "--config", "small.yaml", "--observer", name, "--output", "a")
    assert (code, out) == (2, "")
    assert message in err
    assert not Path("a").exists()


def test_no_file_names_an_observer(fairtat: Command, folder: Path) -> None:
    (folder / "own_observer.py").write_text("raise SystemExit('it was imported')")
    (folder / "bad.yaml").write_text(yaml.safe_dump({**SMALL, "observer": ["own_observer:Own"]}))
    code, _, err = fairtat("train", "--config", "bad.yaml", "--trust-model", "--output", "a")
    assert code == 2
    assert "observer" in err
    assert not Path("a").exists()
