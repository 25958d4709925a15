"""FAAL's weights in the loss of each objective, from the equation in float64."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairtat.data import Batch
from fairtat.training.config import from_dict
from fairtat.training.objectives import make_objective

optimize = pytest.importorskip("scipy.optimize")

BETA, RADIUS = 4.0, 0.5


def shares(logits: Tensor, y: Tensor) -> Tensor:
    """``10 q_y``: 1 / q_c is affine in the summed margins of class c, and the divergence from uniform is RADIUS."""
    p = logits.detach().double().softmax(1).numpy()
    labels = y.numpy()
    margin = [max(np.delete(row, label)) - row[label] for row, label in zip(p, labels, strict=True)]
    score = np.array([sum(m for m, label in zip(margin, labels, strict=True) if label == c) for c in range(10)])

    def q(log_gap: float) -> Any:
        raw = 1 / (score.max() - score + math.exp(log_gap))
        return raw / raw.sum()

    found = optimize.brentq(lambda t: -math.log(10) - np.log(q(t)).mean() - RADIUS, -30, 20, xtol=1e-13)
    return torch.tensor(10 * q(found)[labels]).float()


def cross_entropy(z: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(z, y, reduction="none")


def kl(clean: Tensor, z: Tensor) -> Tensor:
    return (clean.softmax(1) * (clean.log_softmax(1) - z.log_softmax(1))).sum(1)


def bce(z: Tensor, y: Tensor) -> Tensor:
    other = z.softmax(1).scatter(1, y[:, None], 0.0).amax(1)
    return cross_entropy(z, y) - (1.0001 - other).log()


TERMS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "at": lambda clean, z, y: cross_entropy(z, y),
    "fat": lambda clean, z, y: cross_entropy(z, y),
    "trades": lambda clean, z, y: cross_entropy(clean, y) + BETA * kl(clean, z),
    "mart": lambda clean, z, y: bce(z, y) + BETA * kl(clean, z) * (1 - clean.softmax(1).gather(1, y[:, None])[:, 0]),
}


@pytest.mark.parametrize("name", TERMS)
def test_loss_and_gradient(batch: Batch, model: nn.Module, class_rules: Callable[..., Any], name: str) -> None:
    attack = {"step_size": 0.05, "steps": 2}
    objective = make_objective(from_dict({"objective": {"name": name, "beta": BETA, "faal": RADIUS}, "attack": attack}))
    fair, y = class_rules(0.1), batch.y
    examples = objective.attack(model, batch, fair=fair, target=None, seed=5)
    model.eval()
    by_hand = copy.deepcopy(model)
    value = objective.loss(model, batch, examples, fair=fair)
    value.loss.backward()
    clean, adversarial = by_hand(batch.x), by_hand(examples.x_adv)
    weight = shares(adversarial, y)
    assert weight.max() > 1.5 > 0.7 > weight.min()  # so that leaving it out would show
    expected = (weight * TERMS[name](clean, adversarial, y)).sum() / 20
    expected.backward()
    torch.testing.assert_close(value.loss, expected, rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-5)


def test_it_multiplies_the_weights_of_the_rules(
    batch: Batch, model: nn.Module, class_rules: Callable[..., Any]
) -> None:
    table = torch.linspace(0.5, 1.5, 10)
    objective = make_objective(from_dict({"objective": {"name": "at", "faal": RADIUS}, "attack": {"steps": 1}}))
    examples = objective.attack(model, batch, fair=class_rules(0.1), target=None, seed=5)
    model.eval()
    logits = model(examples.x_adv)
    expected = (table[batch.y] * shares(logits, batch.y) * cross_entropy(logits, batch.y)).mean()
    value = objective.loss(model, batch, examples, fair=class_rules(0.1, weight=table))
    torch.testing.assert_close(value.loss, expected, rtol=1e-4, atol=1e-6)
