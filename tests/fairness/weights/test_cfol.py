from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from fairtat import ClassStats
from fairtat.fairness.weights import CFOL

Counted = Callable[..., ClassStats]


def test_two_epochs_by_hand(counted: Counted) -> None:
    rule = CFOL(2, eta=2 * math.log(3), gamma=0.5)
    train = counted(2, [0, 0, 1, 1], [0, 0, 1, 0])  # robust accuracy 1 and 1/2
    rule.end_epoch(train)
    # s = (0, log 3), q = (1/4, 3/4), p = 1/4 + q/2.
    assert rule.distribution.tolist() == pytest.approx([0.375, 0.625], rel=1e-12)
    weight, robust_weight, eps, step = rule.factors
    assert weight is not None
    assert weight.tolist() == pytest.approx([0.75, 1.25], rel=1e-12)
    assert robust_weight is weight
    assert (eps, step) == (None, None)
    rule.end_epoch(train)
    # s = (0, log 9), q = (1/10, 9/10).
    assert rule.distribution.tolist() == pytest.approx([0.3, 0.7], rel=1e-12)


def test_an_epoch_adds_up_to_the_updates_of_every_sample(counted: Counted) -> None:
    """EXP3, error by error, when samples come from the data itself: eta' over the chance of the class."""
    generator = torch.Generator().manual_seed(0)
    label = (torch.rand(200, generator=generator) ** 2 * 4).long().tolist()  # imbalanced
    pred = torch.randint(4, (200,), generator=generator).tolist()
    score = [0.0] * 4
    for y, p in zip(label, pred, strict=True):
        score[y] += 0.001 * (y != p) / (label.count(y) / 200)
    rule = CFOL(4, eta=0.001 * 200)
    rule.end_epoch(counted(4, label, pred))
    assert rule.score.tolist() == pytest.approx(score, rel=1e-12)


def test_no_class_is_forgotten(counted: Counted) -> None:
    rule = CFOL(3, eta=50.0, gamma=0.3)
    for _ in range(100):
        rule.end_epoch(counted(3, [0, 1, 2], [0, 1, 1]))
    assert rule.factors.weight is not None
    assert rule.factors.weight.tolist() == pytest.approx([0.3, 0.3, 0.3 + 3 * 0.7], rel=1e-12)


def test_gamma_of_one_is_uniform(counted: Counted) -> None:
    rule = CFOL(2, gamma=1.0, eta=5.0)
    rule.end_epoch(counted(2, [0, 1], [0, 0]))
    assert rule.factors.weight is not None
    assert rule.factors.weight.tolist() == [1.0, 1.0]
