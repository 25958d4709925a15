from __future__ import annotations

import math
import statistics
from collections.abc import Callable

import numpy as np
import pytest
import torch

from fairtat.evaluation import ClassFigures, Evaluation, rho, wilson

Make = Callable[..., Evaluation]

LABEL = [0, 0, 0, 0, 1, 1, 2]
CLEAN = [0, 0, 0, 1, 1, 1, 2]
ROBUST = [0, 0, 1, 1, 1, 0, 0]


def test_every_figure_of_a_small_matrix_by_hand(make_evaluation: Make) -> None:
    robust = make_evaluation(LABEL, CLEAN, ROBUST).robust
    assert robust.n == [4, 2, 1]
    assert robust.correct == [2, 1, 0]
    assert robust.accuracy == [0.5, 0.5, 0.0]
    assert robust.interval == [wilson(2, 4), wilson(1, 2), wilson(0, 1)]
    assert robust.cfps == [0.5, 0.5, 0.0]  # of four errors two landed on class 0 and two on class 1
    assert robust.cfns == [0.5, 0.25, 0.25]  # of four errors two are images of class 0
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
    assert evaluation.to_dict()["conditions"][1]["classes"][1]["accuracy"] is None


def test_a_perfect_model_has_no_errors_to_share_out(make_evaluation: Make) -> None:
    robust = make_evaluation(LABEL, LABEL, LABEL).robust
    assert robust.cfps == robust.cfns == [0.0, 0.0, 0.0]


def test_figures_of_labels_and_predictions_are_counted() -> None:
    figures = ClassFigures.of(np.array(LABEL), np.array(ROBUST, np.int32), 3)
    assert figures.confusion.tolist() == [[2, 2, 0], [1, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize("seed", range(5))
def test_gini_is_the_mean_difference_of_all_pairs_of_classes(seed: int) -> None:
    random = np.random.default_rng(seed)
    n, classes = random.integers(1, 30, 7), 7
    n[3] = 0  # a class without images is not one of the pairs
    correct = random.binomial(n, random.random(7))
    confusion = torch.zeros(classes, classes, dtype=torch.int64)
    for k in range(classes):
        confusion[k, k], confusion[k, (k + 1) % classes] = int(correct[k]), int(n[k] - correct[k])
    share = [c / m for c, m in zip(correct, n, strict=True) if m]
    pairs = [abs(a - b) for i, a in enumerate(share) for j, b in enumerate(share) if i != j]
    assert ClassFigures(confusion).gini == pytest.approx(np.mean(pairs) / (2 * np.mean(share)))


def test_gini_is_0_for_equal_classes_and_1_where_one_has_everything() -> None:
    for correct, expected in (((5, 5, 5), 0), ((0, 10, 0), 1), ((0, 0, 0), 0)):
        confusion = torch.tensor([[c if j == k else (10 - c) * (j == (k + 1) % 3) for j in range(3)] for k, c in
                                  enumerate(correct)])  # fmt: skip
        assert ClassFigures(confusion).gini == pytest.approx(expected)
    assert ClassFigures(torch.tensor([[4, 0], [0, 0]])).gini == 0  # one class alone has images


def test_rho_by_hand(make_evaluation: Make) -> None:
    before = make_evaluation([0] * 10 + [1] * 10, [0] * 10 + [1] * 10, [0] * 8 + [1] * 2 + [1] * 4 + [0] * 6).robust
    after = make_evaluation([0] * 10 + [1] * 10, [0] * 10 + [1] * 10, [0] * 6 + [1] * 4 + [1] * 5 + [0] * 5).robust
    # Worst class 0.4 -> 0.5, average 0.6 -> 0.55.
    assert rho(before, after) == pytest.approx(0.25 - 0.05 / 0.6)
    assert math.isnan(rho(make_evaluation([0, 1], [0, 1], [0, 0]).robust, before))
