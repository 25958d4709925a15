"""The turns, the proof and the file, with attacks that take no time."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import autoattack_cost
import pytest
import torch
from autoattack_cost import Case
from harness.case import Unavailable
from harness.equality import Mismatch
from torch import Tensor, nn

EPS = 0.1


@pytest.fixture
def case() -> Case:
    """The sign of the first pixel minus a half: ten images are fooled by going down, those above 0.6 resist."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).requires_grad_(False)
    model[1].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0]]))
    model[1].bias.copy_(torch.tensor([-0.5, 0.0]))
    x = torch.full((40, 1, 2, 2), 0.5)
    x[:, 0, 0, 0] = torch.where(torch.arange(40) < 10, 0.55, 0.8)
    return Case(model, x, torch.zeros(40, dtype=torch.long), EPS, 0.05)


def down(case: Case, step: float = EPS, spare: int = 0) -> Tensor:
    x_adv = case.x.clone()
    x_adv[spare:, 0, 0, 0] -= step
    return x_adv


def absent(case: Case) -> Tensor:
    raise Unavailable("not installed: x")


def contestants(monkeypatch: pytest.MonkeyPatch, **attacks: autoattack_cost.Attack) -> None:
    monkeypatch.setattr(autoattack_cost, "CONTESTANTS", {name: ("peer", attack) for name, attack in attacks.items()})


def test_every_contestant_is_judged_and_timed(case, monkeypatch, tmp_path: Path, capsys) -> None:
    turns = []

    def noted(case: Case) -> Tensor:
        turns.append(1)
        return down(case)

    contestants(monkeypatch, absent=absent, first=noted, second=lambda case: down(case, spare=1))
    monkeypatch.setattr(autoattack_cost, "CASES", {"one": lambda file: case, "two": absent})
    out = tmp_path / "result.json"
    before = torch.get_num_threads()
    try:
        monkeypatch.setattr("sys.argv", ["autoattack_cost.py", "--rounds", "3", "--json", str(out)])
        assert autoattack_cost.main() == 0
    finally:
        torch.set_num_threads(before)
    assert "left out: not installed: x" in capsys.readouterr().out
    (result,) = json.loads(out.read_text())["cases"]
    missing, first, second = result["contestants"]
    assert missing == {"name": "absent", "role": "peer", "missing": "not installed: x"}
    assert (first["left"], second["left"]) == (30, 31)  # which is within one image
    assert (result["baseline"], first["ratio"]["median"], len(turns)) == ("first", 1.0, 1 + 3)
    assert second["seconds"]["median"] >= 0


def test_a_weaker_attack_is_not_timed(case, monkeypatch) -> None:
    contestants(monkeypatch, first=down, weak=lambda case: down(case, spare=2))
    with pytest.raises(Mismatch, match="weak leaves 32 images, first 30"):
        autoattack_cost.measured(case, 1)


def test_a_point_outside_the_ball_is_an_error(case, monkeypatch) -> None:
    contestants(monkeypatch, far=lambda case: down(case, 0.3))
    with pytest.raises(Mismatch, match="leaves the ball"):
        autoattack_cost.measured(case, 1)


def test_everyone_makes_the_same_share_of_the_steps(case, monkeypatch) -> None:
    asked = {}

    def ours(*_: object, attacks: list[tuple[str, Any]], **__: object) -> tuple[Tensor]:
        asked.update({name: getattr(stage, "n_iter", None) or stage.n_queries for name, stage in attacks})
        return (case.x,)

    class AutoAttack:
        def __init__(self, *_: object, **__: object) -> None:
            self.apgd, self.apgd_targeted, self.fab = (SimpleNamespace(n_iter=100) for _ in range(3))
            self.square = SimpleNamespace(n_queries=5000)

        def run_standard_evaluation(self, x: Tensor, y: Tensor) -> Tensor:
            numbers = (self.apgd.n_iter, self.apgd_targeted.n_iter, self.fab.n_iter, self.square.n_queries)
            assert dict(zip(asked, numbers, strict=True)) == asked
            return x

    monkeypatch.setattr(autoattack_cost.fairtat, "autoattack", ours)
    monkeypatch.setitem(sys.modules, "peer", SimpleNamespace(AutoAttack=AutoAttack))
    autoattack_cost.ours(case)
    assert asked == {"apgd-ce": 5, "apgd-t": 5, "fab-t": 5, "square": 250}
    assert autoattack_cost.theirs(case, "peer") is case.x


def test_without_a_clone_the_original_is_left_out(case, monkeypatch) -> None:
    monkeypatch.delenv(autoattack_cost.CLONE, raising=False)
    with pytest.raises(Unavailable, match="AUTOATTACK names no clone"):
        autoattack_cost.theirs(case, "autoattack")
