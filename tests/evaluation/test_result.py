from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fairtat.evaluation import AttackSettings, ClassFigures, Evaluation, Samples, wilson

Make = Callable[..., Evaluation]

LABEL = [0, 0, 0, 0, 1, 1, 2]
CLEAN = [0, 0, 0, 1, 1, 1, 2]
ROBUST = [0, 0, 1, 1, 1, 0, 0]


def save(evaluation: Evaluation, path: Path) -> Path:
    assert evaluation.samples is not None
    path.write_text(json.dumps(evaluation.to_dict(), allow_nan=False))
    path.with_suffix(".npz").write_bytes(evaluation.samples.to_npz())
    return path


def test_every_figure_of_a_small_matrix_by_hand(make_evaluation: Make) -> None:
    robust = make_evaluation(LABEL, CLEAN, ROBUST).robust
    assert robust.n == [4, 2, 1]
    assert robust.correct == [2, 1, 0]
    assert robust.accuracy == [0.5, 0.5, 0.0]
    assert robust.interval == [wilson(2, 4), wilson(1, 2), wilson(0, 1)]
    assert robust.cfps == [0.5, 0.5, 0.0]  # of four errors two landed on class 0 and two on class 1
    assert robust.average == pytest.approx(3 / 7)
    assert robust.worst == (2, 0.0)
    assert robust.worst_fifth == 0.0
    assert robust.gap == 0.5
    assert robust.std == pytest.approx(statistics.pstdev([0.5, 0.5, 0.0]))


@pytest.mark.parametrize(("classes", "worst"), [(3, 1), (5, 1), (6, 2), (10, 2), (11, 3)])
def test_worst_fifth_is_the_mean_of_a_fifth_of_the_classes_rounded_up(classes: int, worst: int) -> None:
    confusion = torch.full((classes, classes), 1)
    confusion.fill_diagonal_(0)
    confusion += torch.diag(torch.arange(classes) * 10)
    accuracy = sorted(10 * k / (10 * k + classes - 1) for k in range(classes))
    assert ClassFigures(confusion).worst_fifth == pytest.approx(statistics.mean(accuracy[:worst]))


def test_a_class_without_samples_counts_nowhere(make_evaluation: Make) -> None:
    evaluation = make_evaluation([0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 2, 1])
    robust = evaluation.robust
    assert math.isnan(robust.accuracy[1])
    assert robust.interval[1] == (0.0, 1.0)
    assert robust.worst == (2, 0.5)
    assert robust.gap == 0.5
    assert robust.std == 0.25
    classes = evaluation.to_dict()["robust"]["classes"]
    assert classes[1]["accuracy"] is None


def test_a_perfect_model_has_no_errors_to_share_out(make_evaluation: Make) -> None:
    assert make_evaluation(LABEL, LABEL, LABEL).robust.cfps == [0.0, 0.0, 0.0]


def test_the_json_file_and_the_arrays_give_the_evaluation_back(make_evaluation: Make, tmp_path: Path) -> None:
    evaluation = make_evaluation(LABEL, CLEAN, ROBUST, restarts=3)
    loaded = Evaluation.load(save(evaluation, tmp_path / "one.json"))
    assert loaded.to_dict() == evaluation.to_dict()
    assert loaded.attack == evaluation.attack
    assert loaded.samples is not None
    assert evaluation.samples is not None
    for name in ("sample_ids", "label", "clean_pred", "robust_pred"):
        np.testing.assert_array_equal(getattr(loaded.samples, name), getattr(evaluation.samples, name))


def test_the_npz_file_is_read_without_fairtat(make_evaluation: Make, tmp_path: Path) -> None:
    path = save(make_evaluation(LABEL, CLEAN, ROBUST), tmp_path / "one.json").with_suffix(".npz")
    with np.load(path, allow_pickle=False) as file:
        assert file["clean_correct"].tolist() == [a == b for a, b in zip(LABEL, CLEAN, strict=True)]
        assert file["robust_correct"].tolist() == [a == b for a, b in zip(LABEL, ROBUST, strict=True)]
        assert file["robust_pred"].tolist() == ROBUST


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
    middle = whole.index(b"robust_pred.npy") + 70  # inside the compressed array
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
        ("[]", "not an evaluation of format 1"),
        ('{"format": 2}', "found 2"),
        ('{"format": 1, "class_names": ["a", "b"]}', "lacks or misnames"),
    ],
)
def test_a_json_file_of_something_else_is_refused(
    make_evaluation: Make, tmp_path: Path, text: str, message: str
) -> None:
    path = save(make_evaluation(LABEL, CLEAN, ROBUST), tmp_path / "one.json")
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        Evaluation.load(path)


def test_other_settings_have_another_file_name() -> None:
    base = {"eps": 8 / 255, "step_size": 2 / 255}
    settings = [
        AttackSettings(**{**base, **change})
        for change in (
            {},
            {"eps": 0.1},
            {"step_size": 0.01},
            {"steps": 10},
            {"norm": "l2"},
            {"loss": "margin"},
            {"restarts": 2},
            {"seed": 1},
        )
    ]
    assert len({s.stem for s in settings}) == len(settings)


@pytest.mark.parametrize(
    ("eps", "shown"), [(8 / 255, "eps 8/255"), (0.1, "eps 0.1,"), (0.0, "eps 0,"), (1.0, "eps 255/255")]
)
def test_radii_are_shown_as_the_field_writes_them(eps: float, shown: str) -> None:
    assert shown in str(AttackSettings(eps=eps, step_size=0.01))


def test_samples_know_what_was_right(make_evaluation: Make) -> None:
    samples = make_evaluation(LABEL, CLEAN, ROBUST).samples
    assert isinstance(samples, Samples)
    assert samples.correct("clean").tolist() == [True, True, True, False, True, True, True]
    assert samples.correct("robust").tolist() == [True, True, False, False, True, False, False]
