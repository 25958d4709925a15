"""Results added to a file that holds others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from fairtat.evaluation import Evaluation, Finding, evaluate
from fairtat.evaluation.merge import added_to

Data = tuple[Tensor, Tensor]
Ask = Callable[..., Evaluation]


@pytest.fixture
def ask(net: nn.Module, data: Data) -> Ask:
    def call(*attacks: str, **changes: object) -> Evaluation:
        return evaluate(net, *data, attacks=attacks, eps=0.04, check_sanity=False, **changes)  # type: ignore[arg-type]

    return call


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "test.json"


def predictions(evaluation: Evaluation, name: str) -> list[int]:
    assert evaluation.samples is not None
    found: list[int] = evaluation.samples.pred_of(name).tolist()
    return found


def test_both_in_two_calls_are_both_in_one(ask: Ask, file: Path) -> None:
    ask("fgsm", "cw-2").save(file)
    added, kept, replaced, lost = added_to(file, ask("pgd-2"))
    assert (kept, replaced, lost) == (("fgsm", "cw-2"), (), "")
    at_once = ask("pgd-2", "fgsm", "cw-2")
    assert added.to_dict() == at_once.to_dict()
    for name in at_once.names:  # the worst case over all attacks among them
        assert predictions(added, name) == predictions(at_once, name)
    added.save(file)
    assert Evaluation.load(file).to_dict() == at_once.to_dict()


def test_the_main_attack_is_the_new_ones_if_there_is_one(ask: Ask, file: Path) -> None:
    ask("cw-2").save(file)
    assert added_to(file, ask("fgsm")).evaluation.primary == "fgsm"
    assert added_to(file, ask()).evaluation.primary == "cw-2"


def test_the_same_name_of_another_question_is_told_apart(ask: Ask, file: Path) -> None:
    older = ask("pgd-2")
    older.save(file)
    new = evaluate_at(ask, eps=0.02)
    added = added_to(file, new).evaluation
    assert added.names == ("clean", "pgd-2", "pgd-2@0.04")
    assert predictions(added, "pgd-2@0.04") == predictions(older, "pgd-2")
    assert predictions(added, "pgd-2") == predictions(new, "pgd-2")


def evaluate_at(ask: Ask, eps: float) -> Evaluation:
    found = ask(f"pgd-2@{eps}")
    # As it is named where that is the radius that the command line gives.
    name = f"pgd-2@{eps}"
    assert found.samples is not None
    return replace(
        found,
        primary="pgd-2",
        conditions=tuple(replace(each, name=each.name.replace(name, "pgd-2")) for each in found.conditions),
        samples=replace(found.samples, primary="pgd-2", names=("clean", "pgd-2")),
    )


def test_findings_of_both_are_told_once(ask: Ask, file: Path) -> None:
    one, other = Finding("a:b", "warning", "older"), Finding("a:c", "warning", "only older")
    replace(ask("fgsm"), findings=(one, other)).save(file)
    new = Finding("a:b", "warning", "newer")
    assert added_to(file, replace(ask("cw-2"), findings=(new,))).evaluation.findings == (new, other)


def test_results_of_another_model_or_other_images_do_not_stay(ask: Ask, file: Path, net: nn.Module, data: Data) -> None:
    older = ask("cw-2")
    replace(older, source={"fingerprint": "one"}).save(file)
    new = ask("fgsm")
    assert added_to(file, replace(new, source={"fingerprint": "one"})).kept == ("cw-2",)
    for other, reason in (
        (replace(new, source={"fingerprint": "two"}), "other weights, settings or code"),
        (ask("fgsm", sample_ids=torch.arange(53) + 1), "other images"),
        (ask("fgsm", class_names="abcd"), "other classes"),
    ):
        evaluation, kept, _, lost = added_to(file, other)
        assert evaluation is other
        assert kept == ()
        assert reason in lost
    # Without a fingerprint the clean answers of all images decide.
    older.save(file)
    with torch.no_grad():
        net.layers[-1].weight *= 1.01  # type: ignore[index, union-attr, operator]
    assert "other weights" in added_to(file, ask("fgsm")).lost


def test_a_damaged_file_is_replaced_and_named(ask: Ask, file: Path) -> None:
    ask("cw-2").save(file)
    file.write_bytes(file.read_bytes().replace(b'"primary": "cw-2"', b'"primary": "cw-3"'))
    new = ask("fgsm")
    evaluation, kept, _, lost = added_to(file, new)
    assert evaluation is new
    assert kept == ()
    assert "cannot be read" in lost
    assert str(file) in lost
