from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fairtat.evaluation import Evaluation
from fairtat.training import load_run

Command = Callable[..., Any]

DEFAULT = "test-pgd20-linf-eps0.1-step0.025"


def test_results_lie_in_the_run_and_are_those_of_the_model(fairtat: Command, runs: Path) -> None:
    code, out, err = fairtat("evaluate", "runs/at")
    assert (code, err) == (0, "")
    assert f"written: runs/at/evaluation/{DEFAULT}.json (and .npz)" in out

    run = load_run("runs/at")
    test = run.splits().test
    with torch.no_grad():
        pred = run.model(test.floats(test.images)).argmax(1)
    values = json.loads(Path(f"runs/at/evaluation/{DEFAULT}.json").read_text())
    assert values["attack"]["eps"] == 0.1  # the training radius
    assert values["source"]["data"] == "digits"
    assert values["source"]["epoch"] == 1
    for entry in values["clean"]["classes"]:
        members = test.labels == entry["class"]
        assert entry["n"] == int(members.sum())
        assert entry["correct"] == int((pred[members] == entry["class"]).sum())
    with np.load(f"runs/at/evaluation/{DEFAULT}.npz") as file:
        assert file["sample_ids"].tolist() == test.ids.tolist()
        assert file["clean_pred"].tolist() == pred.tolist()
    assert values["robust"]["average"] < values["clean"]["average"]


def test_the_table_shows_every_class_and_the_worst(fairtat: Command, runs: Path) -> None:
    _, out, _ = fairtat("evaluate", "runs/at", "--attack.steps", 2)
    evaluation = Evaluation.load("runs/at/evaluation/test-pgd2-linf-eps0.1-step0.025.json")
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
    for k in range(10):
        star = "*" if k == evaluation.robust.worst[0] else ""
        assert rows[str(k)][4] == f"{star}{100 * evaluation.robust.accuracy[k]:.1f}"


def test_the_same_settings_give_the_same_bytes(fairtat: Command, runs: Path) -> None:
    def files(*options: object) -> dict[str, bytes]:
        assert fairtat("evaluate", "runs/at", "--attack.steps", 2, *options).code == 0
        return {path.name: path.read_bytes() for path in Path("runs/at/evaluation").iterdir()}

    first = files()
    assert len(first) == 2
    assert files("--batch-size", 100) == first


def test_without_a_radius_robust_is_clean(fairtat: Command, runs: Path) -> None:
    assert fairtat("evaluate", "runs/at", "--attack.eps", 0, "--output", "here").code == 0
    (path,) = Path("here").glob("*.json")
    evaluation = Evaluation.load(path)
    assert torch.equal(evaluation.robust.confusion, evaluation.clean.confusion)
    assert not Path("runs/at/evaluation").exists()


def test_options_reach_the_attack(fairtat: Command, runs: Path) -> None:
    options = "--attack.eps 8/255 --attack.step_size 1/255 --attack.steps 3 --attack.norm l2 --attack.restarts 2"
    assert fairtat("evaluate", "runs/at", *options.split(), "--attack.seed", 4, "--split", "val").code == 0
    (path,) = Path("runs/at/evaluation").glob("val-*.json")
    evaluation = Evaluation.load(path)
    assert evaluation.attack.eps == 8 / 255
    assert evaluation.attack.step_size == 1 / 255
    assert (evaluation.attack.steps, evaluation.attack.norm) == (3, "l2")
    assert (evaluation.attack.restarts, evaluation.attack.seed) == (2, 4)
    assert evaluation.clean.total == len(load_run("runs/at").splits().val)


def spoil_checkpoint(folder: Path) -> None:
    path = folder / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])


def remove_checkpoint(folder: Path) -> None:
    (folder / "checkpoint.pt").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_checkpoint, "error: runs/at/checkpoint.pt: cannot be read; the file is truncated"),
        (remove_checkpoint, "error: runs/at: holds no checkpoint.pt"),
    ],
)
def test_a_damaged_run_is_one_line_and_leaves_nothing(
    fairtat: Command, runs: Path, spoil: Callable[[Path], None], message: str
) -> None:
    spoil(Path("runs/at"))
    code, out, err = fairtat("evaluate", "runs/at")
    assert (code, out) == (2, "")
    assert err.startswith(message)
    assert err.count("\n") == 1
    assert not Path("runs/at/evaluation").exists()


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [("--attack.eps", -1, "eps"), ("--attack.steps", -1, "steps"), ("--batch_size", 0, "batch_size")],
)
def test_values_out_of_range_are_named(fairtat: Command, runs: Path, option: str, value: int, word: str) -> None:
    code, out, err = fairtat("evaluate", "runs/at", f"{option}={value}")
    assert (code, out) == (2, "")
    assert word in err
    assert str(value) in err
    assert not Path("runs/at/evaluation").exists()
