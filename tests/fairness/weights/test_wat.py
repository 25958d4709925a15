from __future__ import annotations

import math

import pytest
import torch

from fairtat import ClassStats
from fairtat.fairness.weights import WAT


def with_losses(*losses: float | None) -> ClassStats:
    """Two samples of each class with that mean cross-entropy, 0.25 apart; none for None."""
    stats = ClassStats(len(losses))
    for label, loss in enumerate(losses):
        for value in () if loss is None else (loss - 0.125, loss + 0.125):
            probability = torch.full((len(losses),), (1 - math.exp(-value)) / (len(losses) - 1), dtype=torch.float64)
            probability[label] = math.exp(-value)
            stats.update(probability.log().float()[None], torch.tensor([label]))
    return stats


def observe(rule: WAT, *losses: float | None) -> None:
    rule.observe_validation(ClassStats(len(losses)), with_losses(*losses))
    rule.end_epoch(ClassStats(len(losses)))


def weights(rule: WAT) -> list[float]:
    weight, robust_weight, eps, step = rule.factors
    assert weight is not None
    assert robust_weight is weight
    assert (eps, step) == (None, None)
    return [float(w) for w in weight]


def test_two_epochs_by_hand() -> None:
    rule = WAT(2, eta=math.log(2))
    observe(rule, 1.0, 3.0)
    # exp(eta * L) is 2 and 8, for the average loss of 2 it is 4: p = (1/7, 4/7), p_avg = 2/7.
    assert weights(rule) == pytest.approx([2 / 7 + 2 / 7, 8 / 7 + 2 / 7], rel=1e-6)
    observe(rule, 2.0, 1.0)
    # L = (3, 4), the average 3.5: 8, 16 and 8 * sqrt(2).
    total = 8 + 16 + 8 * math.sqrt(2)
    average = 8 * math.sqrt(2) / total
    assert weights(rule) == pytest.approx([2 * 8 / total + average, 2 * 16 / total + average], rel=1e-6)


def test_without_the_average() -> None:
    rule = WAT(2, eta=math.log(2), average=False)
    observe(rule, 1.0, 2.0)
    assert weights(rule) == pytest.approx([2 / 3, 4 / 3], rel=1e-6)


def test_the_weighted_loss_is_the_players_mix_of_class_losses_and_average_loss() -> None:
    losses = [0.5, 2.0, 1.25]
    rule = WAT(3, eta=0.7)
    observe(rule, *losses)
    played = [math.exp(0.7 * loss) for loss in [*losses, sum(losses) / 3]]
    mix = sum(p * loss for p, loss in zip(played, [*losses, sum(losses) / 3], strict=True)) / sum(played)
    weighted = sum(w * loss for w, loss in zip(weights(rule), losses, strict=True)) / 3
    assert weighted == pytest.approx(mix, rel=1e-6)


def test_a_class_without_samples_has_the_average_loss() -> None:
    rule, told = WAT(3, eta=1.0), WAT(3, eta=1.0)
    observe(rule, 1.0, None, 3.0)
    observe(told, 1.0, 2.0, 3.0)
    assert weights(rule) == pytest.approx(weights(told), rel=1e-6)


def test_large_losses_do_not_overflow() -> None:
    rule = WAT(2, eta=1000.0, average=False)
    observe(rule, 1.0, 15.0)
    assert weights(rule) == pytest.approx([0.0, 2.0])
