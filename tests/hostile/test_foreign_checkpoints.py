"""Checkpoints that another program, or a person, has put together: one line, whatever they hold."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from fairtat.errors import UserError
from fairtat.training import load_run, resume
from fairtat.training.run.checkpoint import load_checkpoint, save_checkpoint

JUNK: tuple[Any, ...] = (
    None, -5, 2.5, True, "text", [], [1, 2], [[1], "a"], {}, {"a": 1}, {1: torch.ones(3)}, {"weight": torch.ones(3)},
    torch.ones(3), float("nan"), 10**400,
)  # fmt: skip
KEYS = ("epoch", "class_names", "image_shape", "config", "model", "optimizer", "fair", "averaging", "scaler", "score")


@pytest.fixture(scope="module")
def copy(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(finished, tmp_path_factory.mktemp("foreign") / "run")


@pytest.mark.fault(
    "a checkpoint of another program",
    "refused in one line that names what is wrong",
)
@pytest.mark.parametrize("key", KEYS)
def test_a_value_of_another_kind_is_one_line(finished: Path, copy: Path, key: str) -> None:
    name = "best.pt" if key == "score" else "checkpoint.pt"
    state = load_checkpoint(finished / name, keys=frozenset())
    refused = 0
    for junk in JUNK:
        save_checkpoint(copy / name, {**state, key: junk})
        try:
            if key == "score":
                load_run(copy, weights="best")
            else:
                load_run(copy)
                resume(copy)
        except UserError as error:
            message = str(error)
            refused += 1
            assert "\n" not in message
            assert str(copy) in message
    assert refused >= len(JUNK) - 3
    shutil.copy(finished / name, copy / name)


def test_a_state_of_the_right_kind_that_does_not_fit(finished: Path, copy: Path) -> None:
    state = load_checkpoint(finished / "checkpoint.pt")
    state["epoch"] = 1  # so that there is something left to train
    for key, value in (
        ("optimizer", {}),
        ("optimizer", {"state": {0: 5}, "param_groups": []}),
        ("optimizer", {"state": {}, "param_groups": [{"params": [0, 1, 2, 3]}]}),
        ("fair", {"stats": {}}),
        ("model", {"weight": torch.ones(3)}),
        ("image_shape", [1, 10**9, 10**9]),
        ("class_names", [str(number) for number in range(11)]),
    ):
        save_checkpoint(copy / "checkpoint.pt", {**state, key: value})
        with pytest.raises(UserError) as caught:
            resume(copy)
        assert "\n" not in str(caught.value)
        assert str(copy) in str(caught.value)
    shutil.copy(finished / "checkpoint.pt", copy / "checkpoint.pt")
