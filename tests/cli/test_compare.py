from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fairtat.cli.compare import display_names
from fairtat.errors import UserError
from fairtat.evaluation import Evaluation

Command = Callable[..., Any]

FAST = ("--attack.steps", "2")
STORED = "evaluation/test-pgd2-linf-eps0.1-step0.025.json"


def test_two_runs_are_evaluated_compared_and_drawn(fairtat: Command, runs: Path) -> None:
    pytest.importorskip("matplotlib")
    code, out, err = fairtat("compare", "runs/at", "runs/fair", *FAST)
    assert code == 0
    assert err.splitlines() == [
        f"{name}: evaluating (PGD-2, linf, eps 0.1, step 0.025, test split)" for name in ("at", "fair")
    ]
    assert "fair against at, robust accuracy in points:" in out
    for line in ("Gained: ", "Worst class: ", "Average: ", "written: comparison/compare.png"):
        assert line in out
    assert Path("comparison/compare.png").read_bytes().startswith(b"\x89PNG\r\n")

    values = json.loads(Path("comparison/compare.json").read_text())
    at, fair = (Evaluation.load(Path("runs") / name / STORED) for name in ("at", "fair"))
    differences = [c["difference"] for c in values["against_baseline"]["fair"]["robust"]["classes"]]
    expected = [b - a for a, b in zip(at.robust.accuracy, fair.robust.accuracy, strict=True)]
    assert differences == pytest.approx(expected)


def test_stored_evaluations_are_used_again(fairtat: Command, runs: Path) -> None:
    assert fairtat("evaluate", "runs/at", *FAST).code == 0
    assert fairtat("compare", "runs/at", "runs/fair", *FAST).err.startswith("fair: evaluating")
    assert fairtat("compare", "runs/at", "runs/fair", *FAST).err == ""


def test_an_evaluation_of_another_checkpoint_or_a_damaged_one_is_made_again(fairtat: Command, runs: Path) -> None:
    fairtat("compare", "runs/at", "runs/fair", *FAST)
    path = Path("runs/at/checkpoint.pt")
    state = torch.load(path, weights_only=True)
    state["model"] = {name: -value for name, value in state["model"].items()}
    torch.save(state, path)
    (Path("runs/fair") / STORED).write_text("{")
    before = Evaluation.load(Path("runs/at") / STORED).clean.correct
    assert fairtat("compare", "runs/at", "runs/fair", *FAST).err.count("evaluating") == 2
    assert Evaluation.load(Path("runs/at") / STORED).clean.correct != before
    assert Evaluation.load(Path("runs/fair") / STORED).clean.total == 359


def test_all_runs_meet_the_first_ones_attack_and_other_radii_are_announced(fairtat: Command, runs: Path) -> None:
    code, _, err = fairtat("compare", "runs/at", "runs/wide", *FAST)
    assert code == 0
    assert "warning: trained with different radii (at: linf, eps 0.1, wide: linf, eps 0.2)" in err
    assert Evaluation.load(Path("runs/wide") / STORED).attack.eps == 0.1


def test_runs_of_other_images_are_refused_and_nothing_is_written(fairtat: Command, runs: Path) -> None:
    code, out, err = fairtat("compare", "runs/at", "runs/other", *FAST)
    assert (code, out) == (2, "")
    assert "error: at and other cannot be compared: they were evaluated on different images" in err
    assert not Path("comparison").exists()


def test_a_run_that_is_missing_stops_before_any_work(fairtat: Command, runs: Path) -> None:
    assert fairtat("compare", "runs/at", "runs/nowhere", *FAST) == (2, "", "error: runs/nowhere: no such run folder\n")
    assert not Path("runs/at/evaluation").exists()


def test_without_matplotlib_there_is_a_table_and_a_hint(
    fairtat: Command, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, out, err = fairtat("compare", "runs/at", "runs/fair", "--output", "figures", *FAST)
    assert code == 0
    assert "pip install 'fairtat[eval]'" in err
    assert "Worst class: " in out
    assert [path.name for path in Path("figures").iterdir()] == ["compare.json"]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/at", "runs/fair"], ["at", "fair"]),
        (["runs/at/", "./runs/fair/."], ["at", "fair"]),
        (["a/seed0", "b/seed0"], ["a/seed0", "b/seed0"]),
    ],
)
def test_names_are_the_shortest_that_differ(paths: list[str], names: list[str]) -> None:
    assert display_names(paths) == names


def test_the_same_folder_twice_is_refused() -> None:
    with pytest.raises(UserError, match="given twice"):
        display_names(["runs/at", "runs/../runs/at"])
