from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fairtat.errors import UserError
from fairtat.evaluation import Condition, CorruptionSettings, Evaluation, Finding, Samples, TargetedSweep

Make = Callable[..., Evaluation]

LABEL = [0, 0, 0, 0, 1, 1, 2]
CLEAN = [0, 0, 0, 1, 1, 1, 2]
ROBUST = [0, 0, 1, 1, 1, 0, 0]


def save(evaluation: Evaluation, path: Path) -> Path:
    evaluation.save(path)
    return path


def test_the_json_file_and_the_arrays_give_the_evaluation_back(make_evaluation: Make, tmp_path: Path) -> None:
    evaluation = make_evaluation(LABEL, CLEAN, ROBUST, restarts=3)
    loaded = Evaluation.load(save(evaluation, tmp_path / "one.json"))
    assert loaded.to_dict() == evaluation.to_dict()
    assert loaded.attack == evaluation.attack
    assert loaded.samples is not None
    assert evaluation.samples is not None
    for name in ("sample_ids", "label", "pred", "margin", "attacked"):
        np.testing.assert_array_equal(getattr(loaded.samples, name), getattr(evaluation.samples, name))


def test_the_npz_file_is_read_without_fairtat(make_evaluation: Make, tmp_path: Path) -> None:
    path = save(make_evaluation(LABEL, CLEAN, ROBUST), tmp_path / "one.json").with_suffix(".npz")
    with np.load(path, allow_pickle=False) as file:
        assert file["conditions"].tolist() == ["clean", "pgd-20"]
        assert file["correct"][0].tolist() == [a == b for a, b in zip(LABEL, CLEAN, strict=True)]
        assert file["correct"][1].tolist() == [a == b for a, b in zip(LABEL, ROBUST, strict=True)]
        assert file["pred"][1].tolist() == ROBUST


def test_equal_outcomes_give_equal_bytes(make_evaluation: Make) -> None:
    first, second = (make_evaluation(LABEL, CLEAN, ROBUST).samples for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.to_npz() == second.to_npz()


@pytest.mark.parametrize("keep", [0, 10, 300, -40])
def test_a_truncated_npz_file_is_named(make_evaluation: Make, tmp_path: Path, keep: int) -> None:
    path = save(make_evaluation(LABEL, CLEAN, ROBUST), tmp_path / "one.json")
    arrays = path.with_suffix(".npz")
    arrays.write_bytes(arrays.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"one\.npz holds no per-sample outcomes"):
        Evaluation.load(path)


def test_an_npz_file_with_a_flipped_byte_is_never_taken_for_whole(make_evaluation: Make, tmp_path: Path) -> None:
    path = save(make_evaluation(LABEL, CLEAN, ROBUST), tmp_path / "one.json")
    arrays = path.with_suffix(".npz")
    whole = arrays.read_bytes()
    middle = whole.index(b"pred.npy") + 70  # inside the compressed array
    arrays.write_bytes(whole[:middle] + bytes([whole[middle] ^ 0xFF]) + whole[middle + 1 :])
    with pytest.raises(ValueError, match=r"one\.npz"):
        Evaluation.load(path)


def test_a_missing_npz_file_is_an_os_error(make_evaluation: Make, tmp_path: Path) -> None:
    path = save(make_evaluation(LABEL, CLEAN, ROBUST), tmp_path / "one.json")
    path.with_suffix(".npz").unlink()
    with pytest.raises(FileNotFoundError):
        Evaluation.load(path)


def test_arrays_of_another_evaluation_are_noticed(make_evaluation: Make, tmp_path: Path) -> None:
    path = save(make_evaluation(LABEL, CLEAN, ROBUST), tmp_path / "one.json")
    other = make_evaluation(LABEL, CLEAN, CLEAN).samples
    assert other is not None
    path.with_suffix(".npz").write_bytes(other.to_npz())
    with pytest.raises(ValueError, match="disagree"):
        Evaluation.load(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "one.json"),
        ("[]", "expected a JSON object, found list"),
        ('{"format": 1}', "found 1.*evaluate again"),
        ('{"format": 2, "class_names": ["a", "b"]}', "lacks or misnames"),
    ],
)
def test_a_json_file_of_something_else_is_refused(
    make_evaluation: Make, tmp_path: Path, text: str, message: str
) -> None:
    path = save(make_evaluation(LABEL, CLEAN, ROBUST), tmp_path / "one.json")
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        Evaluation.load(path)


def test_samples_know_what_was_right(make_evaluation: Make) -> None:
    samples = make_evaluation(LABEL, CLEAN, ROBUST).samples
    assert isinstance(samples, Samples)
    assert samples.correct("clean").tolist() == [True, True, True, False, True, True, True]
    assert samples.correct("robust").tolist() == [True, True, False, False, True, False, False]
    assert samples.correct("pgd-20").tolist() == samples.correct("robust").tolist()
    assert samples.margin[samples.row("clean")].tolist() == [1, 1, 1, -1, 1, 1, 1]


def test_a_condition_that_is_not_there_is_an_error_that_names_the_nearest(make_evaluation: Make) -> None:
    evaluation = make_evaluation(LABEL, CLEAN, ROBUST)
    with pytest.raises(UserError, match=r"no condition 'pgd-10'; did you mean 'pgd-20'\?"):
        evaluation.condition("pgd-10")
    assert evaluation.samples is not None
    with pytest.raises(UserError, match="no condition 'apgd'"):
        evaluation.samples.correct("apgd")
    assert "pgd-20" in evaluation
    assert "pgd-10" not in evaluation


def test_clean_and_robust_are_conditions_by_another_name(make_evaluation: Make) -> None:
    evaluation = make_evaluation(LABEL, CLEAN, ROBUST)
    assert evaluation.names == ("clean", "pgd-20")
    assert evaluation.clean is evaluation.condition("clean").figures
    assert evaluation.robust is evaluation.condition("pgd-20").figures
    assert evaluation.attack is evaluation.attacks[0].settings


def test_a_sweep_is_a_curve_from_the_clean_accuracy_down(make_evaluation: Make) -> None:
    evaluation = make_evaluation(LABEL, CLEAN, ROBUST)
    clean, robust = evaluation.conditions
    swept = [
        replace(robust, name=f"pgd-20@{eps}", kind="sweep", settings=replace(evaluation.attack, eps=eps), figures=f)
        for eps, f in ((0.2, robust.figures), (0.1, clean.figures))
    ]
    eps, accuracy, average = replace(evaluation, conditions=(clean, robust, *swept)).curve()
    assert eps == [0.0, 0.1, 0.2]
    assert accuracy.tolist() == [[0.75, 1.0, 1.0], [0.75, 1.0, 1.0], [0.5, 0.5, 0.0]]
    assert average == pytest.approx([6 / 7, 6 / 7, 3 / 7])


def test_corruption_errors_are_of_all_images(make_evaluation: Make) -> None:
    evaluation = make_evaluation(LABEL, CLEAN, ROBUST)
    clean, robust = evaluation.conditions
    fog = [
        Condition(f"fog/{severity}", "corruption", CorruptionSettings("fog", severity), figures)
        for severity, figures in ((1, clean.figures), (5, robust.figures))
    ]
    evaluation = replace(evaluation, conditions=(clean, robust, *fog))
    assert evaluation.corruption_errors() == {"fog": {1: pytest.approx(1 / 7), 5: pytest.approx(4 / 7)}}
    assert evaluation.mean_corruption_error == pytest.approx(5 / 14)
    again = Evaluation.from_dict(json.loads(json.dumps(evaluation.to_dict())))
    assert again.condition("fog/5").settings == CorruptionSettings("fog", 5)
    assert make_evaluation(LABEL, CLEAN, ROBUST).mean_corruption_error is None


def test_the_targeted_sweep_is_kept_with_its_rates(make_evaluation: Make, tmp_path: Path) -> None:
    evaluation = make_evaluation(LABEL, CLEAN, ROBUST)
    reached = torch.tensor([[0, 3, 1], [2, 0, 0], [0, 0, 0]])
    sweep = TargetedSweep(evaluation.attack, (4, 2, 1), reached)
    loaded = Evaluation.load(save(replace(evaluation, targeted=sweep), tmp_path / "one.json"))
    assert loaded.targeted is not None
    assert loaded.targeted.rate.nan_to_num(-1).tolist() == [[-1, 0.75, 0.25], [1, -1, 0], [0, 0, -1]]
    assert loaded.targeted.settings == evaluation.attack


def test_findings_are_kept(make_evaluation: Make, tmp_path: Path) -> None:
    found = Finding("model:train-mode", "warning", "It came in train mode.")
    evaluation = replace(make_evaluation(LABEL, CLEAN, ROBUST), findings=(found,))
    assert Evaluation.load(save(evaluation, tmp_path / "one.json")).findings == (found,)


def test_an_evaluation_without_attacks_says_so(make_evaluation: Make) -> None:
    evaluation = make_evaluation(LABEL, CLEAN, ROBUST)
    alone = replace(evaluation, conditions=evaluation.conditions[:1], primary="clean")
    assert alone.robust is alone.clean
    with pytest.raises(UserError, match="holds no attack"):
        _ = alone.attack
