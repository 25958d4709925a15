"""Answers that are kept: what is asked again, what is not, and what an interruption costs."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fairtat.evaluation import evaluate
from fairtat.evaluation.cache import store
from fairtat.evaluation.cache.canary import CANARIES
from fairtat.files import sealed_zip

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


# What the model is shown before kept answers are trusted: the canaries as they are, twice, a step along their gradient
# and its end, and those that each of up to 8 kept answers moved.
CHECKS = CANARIES * (2 + 2 + 8)


def test_the_same_question_is_answered_by_a_check_of_the_model(ask: Callable[..., Any]) -> None:
    first, shown = ask()
    assert shown > 10 * CHECKS
    for batch_size in (10, 17):  # another speed, not another question
        again, shown = ask(batch_size=batch_size)
        assert again == first
        assert shown <= CHECKS


def test_a_part_of_the_questions_is_answered_by_a_check_of_the_model(ask: Callable[..., Any]) -> None:
    ask()
    assert ask(attacks=["pgd-3"], eps_sweep=(), targeted=False)[1] <= CHECKS
    shown = ask(attacks=["pgd-3", "cw-5"], eps_sweep=(), targeted=False)[1]
    assert shown <= CHECKS + 53 * 6


@pytest.mark.parametrize(
    "changes",
    [
        *({"seed": 1}, {"eps": 0.05}, {"norm": "l2"}, {"steps": 4, "attacks": ["pgd"]}, {"active_set": False}),
        # They may differ in the last bit, and whoever names one wants to know what that one finds.
        *({"amp": "bf16"}, {"backend": "reference"}, {"engine": "graph"}),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:engine='graph'")
def test_other_settings_are_another_question(ask: Callable[..., Any], changes: dict[str, Any]) -> None:
    ask(targeted=False, eps_sweep=())
    assert ask(targeted=False, eps_sweep=(), **changes)[1] > CHECKS


@pytest.mark.filterwarnings("ignore:engine='graph'")
@pytest.mark.parametrize("changes", [{"engine": "graph"}, {"backend": "reference"}], ids=str)
def test_another_engine_is_another_question_of_targeted_attacks_too(
    ask: Callable[..., Any], changes: dict[str, Any]
) -> None:
    asked = {"attacks": [], "eps_sweep": (), "targeted": "pgd-2"}
    ask(**asked)
    assert ask(**asked, engine="eager")[1] <= CHECKS  # what "auto" is here
    assert ask(**asked, **changes)[1] > CHECKS


def test_other_weights_buffers_or_images_are_another_question(
    ask: Callable[..., Any], counted: Counted, data: Data
) -> None:
    _, all_of_it = ask()
    with torch.no_grad():
        counted.inside.layers[-1].bias[0] += 1e-3
    assert ask()[1] > all_of_it / 2
    counted.inside.layers[1].running_mean[0] += 0.5
    assert ask()[1] > CHECKS
    x, y = data
    assert ask(data=(x.flip(3), y))[1] > CHECKS
    assert ask(data=(x, y.flip(0)))[1] > CHECKS
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


@pytest.mark.parametrize("after", [1, 12, 31])
def test_an_interruption_costs_one_batch_at_most(ask: Callable[..., Any], after: int) -> None:
    _, from_the_start = ask(seed=0)
    with pytest.raises(Stop):
        ask(seed=1, progress=stopping(after))
    counted_before = ask(seed=1)[1]
    assert ask(seed=1)[1] <= CHECKS
    assert counted_before < from_the_start


def test_answers_are_written_while_they_are_worked_out(
    ask: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Of a killed process nothing runs at the end: what counts is what was on disk before.
    monkeypatch.setattr(store, "SAVE_EVERY", 0.0)
    covered: list[int] = []

    def look(condition: str, done: int, total: int) -> None:
        if condition == "pgd-3":
            newest = max((tmp_path / "parts").iterdir(), key=lambda path: path.stat().st_mtime_ns)
            with np.load(newest) as file:
                covered.append(int(file["done"].sum()) - done)

    ask(attacks=["pgd-3"], eps_sweep=(), targeted=False, progress=look)
    assert covered == [0] * len(covered)
    assert len(covered) >= 3


def test_a_damaged_part_is_named_and_made_again(
    ask: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, shown = ask()
    paths = sorted((tmp_path / "parts").iterdir())
    for path in paths:
        path.write_bytes(path.read_bytes()[:-30])
    assert ask() == (first, shown)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(paths)
    for path in paths:
        assert any(f"{path}: damaged" in line and "computed again" in line for line in said)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda arrays: arrays.update(done=np.array(-5)),
        lambda arrays: arrays.update(done=np.array(10**9)),
        lambda arrays: arrays.update(done=np.array(2.0)),
        lambda arrays: arrays.update({name: array[:3] for name, array in arrays.items() if array.ndim}),
        lambda arrays: arrays.update({name: array.astype("S9") for name, array in arrays.items()}),
        lambda arrays: arrays.update(pred=np.full(53, 4, np.int32)),
        lambda arrays: arrays.update(pred=np.full(53, -2, np.int32)),
        lambda arrays: arrays.update(extra=np.arange(3)),
        lambda arrays: arrays.update(margin=np.zeros(10**6, np.float32)),
        lambda arrays: arrays.pop("seen"),
        lambda arrays: arrays.update(findings=np.full(8, '{"id": "\\u001b[2J", "severity": "", "text": ""}', "U2000")),
        lambda arrays: arrays.update(findings=np.full(8, "[1", "U2000")),
    ],
)
def test_a_part_of_foreign_contents_is_never_taken(
    ask: Callable[..., Any], tmp_path: Path, spoil: Callable[[dict[str, Any]], object]
) -> None:
    few: dict[str, Any] = {"attacks": ["fgsm"], "eps_sweep": ()}
    first, _ = ask(**few)
    for path in (tmp_path / "parts").iterdir():
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        spoil(arrays)
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)
        path.write_bytes(sealed_zip(content.getvalue()))
    assert ask(**few)[0] == first


def test_resuming_gives_what_an_uninterrupted_evaluation_gives(net: nn.Module, data: Data, tmp_path: Path) -> None:
    expected = evaluate(net, *data, cache=tmp_path / "one", **QUESTIONS)
    progress = stopping(4)
    interruptions = 0
    while True:
        try:
            found = evaluate(net, *data, cache=tmp_path / "two", progress=progress, **QUESTIONS)
            break
        except Stop:
            interruptions += 1
    assert interruptions > 5
    assert found.to_dict() == expected.to_dict()
    assert found.samples is not None
    assert expected.samples is not None
    assert found.samples.to_npz() == expected.samples.to_npz()
