"""Answers that are kept: what is asked again, what is not, and what an interruption costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairtat.evaluation import evaluate, parts

Data = tuple[Tensor, Tensor]
Counted = Any  # of conftest: an nn.Module with ``.images``, the images that it has been shown

QUESTIONS: dict[str, Any] = {
    "attacks": ["pgd-3", "fgsm+cw-3"],
    "eps": 0.04,
    "eps_sweep": [0.02, 0.04],
    "targeted": "pgd-2",
    "batch_size": 10,
}


@pytest.fixture
def ask(counted: Counted, data: Data, tmp_path: Path) -> Callable[..., tuple[dict[str, Any], int]]:
    """Evaluate with answers kept in one folder: the figures, and how many images the model was shown for them."""

    def call(**changes: Any) -> tuple[dict[str, Any], int]:
        counted.images = 0
        found = evaluate(
            changes.pop("model", counted),
            *changes.pop("data", data),
            cache=tmp_path / "parts",
            **{**QUESTIONS, **changes},
        )
        return found.to_dict(), counted.images

    return call


def test_the_same_question_is_answered_without_the_model(ask: Callable[..., Any]) -> None:
    first, shown = ask()
    assert shown > 0
    assert ask() == (first, 0)
    assert ask(batch_size=17) == (first, 0)  # another speed, not another question


def test_a_part_of_the_questions_is_answered_without_the_model(ask: Callable[..., Any]) -> None:
    ask()
    assert ask(attacks=["pgd-3"], eps_sweep=(), targeted=False)[1] == 0
    shown = ask(attacks=["pgd-3", "cw-5"], eps_sweep=(), targeted=False)[1]
    assert 0 < shown <= 53 * 6


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"eps": 0.05}, {"norm": "l2"}, {"steps": 4, "attacks": ["pgd"]}, {"active_set": False}]
)
def test_other_settings_are_another_question(ask: Callable[..., Any], changes: dict[str, Any]) -> None:
    ask(targeted=False, eps_sweep=())
    assert ask(targeted=False, eps_sweep=(), **changes)[1] > 0


def test_other_weights_buffers_or_images_are_another_question(
    ask: Callable[..., Any], counted: Counted, data: Data
) -> None:
    _, all_of_it = ask()
    with torch.no_grad():
        counted.inside.layers[-1].bias[0] += 1e-3
    assert ask()[1] > all_of_it / 2
    counted.inside.layers[1].running_mean[0] += 0.5
    assert ask()[1] > 0
    x, y = data
    assert ask(data=(x.flip(3), y))[1] > 0
    assert ask(data=(x, y.flip(0)))[1] > 0
    assert ask() == ask()


def test_a_callable_that_is_no_module_is_not_kept(ask: Callable[..., Any], counted: Counted, tmp_path: Path) -> None:
    counted.eval()
    first, shown = ask(model=lambda x: counted(x))
    assert ask(model=lambda x: counted(x)) == (first, shown)
    assert not (tmp_path / "parts").exists()


class Stop(Exception):
    pass


def stopping(every: int) -> Callable[[str, int, int], None]:
    """A progress callback that interrupts at every such batch."""
    calls = 0

    def stop(condition: str, done: int, total: int) -> None:
        nonlocal calls
        calls += 1
        if calls % every == 0:
            raise Stop

    return stop


@pytest.mark.parametrize("after", [1, 7, 12, 20, 31])
def test_an_interruption_costs_one_batch_at_most(ask: Callable[..., Any], after: int) -> None:
    _, from_the_start = ask(seed=0)
    with pytest.raises(Stop):
        ask(seed=1, progress=stopping(after))
    counted_before = ask(seed=1)[1]
    assert ask(seed=1)[1] == 0
    assert counted_before < from_the_start


def test_answers_are_written_while_they_are_worked_out(
    ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Of a killed process nothing runs at the end: what counts is what was on disk before.
    monkeypatch.setattr(parts, "SAVE_EVERY", 0.0)
    covered: list[int] = []

    def look(condition: str, done: int, total: int) -> None:
        if condition == "pgd-3":
            newest = max((tmp_path / "parts").iterdir(), key=lambda path: path.stat().st_mtime_ns)
            with np.load(newest) as file:
                covered.append(int(file["done"]) - done)

    ask(attacks=["pgd-3"], eps_sweep=(), targeted=False, progress=look)
    assert covered == [0] * len(covered)
    assert len(covered) >= 3


def test_a_damaged_part_is_made_again(ask: Callable[..., Any], tmp_path: Path) -> None:
    first, shown = ask()
    for path in (tmp_path / "parts").iterdir():
        path.write_bytes(path.read_bytes()[:-30])
    assert ask() == (first, shown)


def test_resuming_gives_what_an_uninterrupted_evaluation_gives(counted: nn.Module, data: Data, tmp_path: Path) -> None:
    expected = evaluate(counted, *data, cache=tmp_path / "one", **QUESTIONS)
    progress = stopping(4)
    interruptions = 0
    while True:
        try:
            found = evaluate(counted, *data, cache=tmp_path / "two", progress=progress, **QUESTIONS)
            break
        except Stop:
            interruptions += 1
    assert interruptions > 5
    assert found.to_dict() == expected.to_dict()
    assert found.samples is not None
    assert expected.samples is not None
    assert found.samples.to_npz() == expected.samples.to_npz()
