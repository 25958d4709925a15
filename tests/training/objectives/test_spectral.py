"""CSR's weights against numpy, and its loss against the authors' form of it, in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairtat import ClassStats
from fairtat.data import Batch
from fairtat.data.stream import Data
from fairtat.training import load_data
from fairtat.training.config import DataConfig, from_dict
from fairtat.training.objectives import LearningObjective, ObjectiveValue, make_objective
from fairtat.training.objectives.spectral import spectral_weight

pytest.importorskip("sklearn")

CONFIG = from_dict({"objective": {"name": "csr", "beta": 4.0, "csr": 0.3}, "attack": {"step_size": 0.03, "steps": 2}})


@pytest.fixture(scope="module")
def data() -> Data:
    return load_data(DataConfig()).train


def errors(seed: int, classes: int = 10) -> np.ndarray:
    matrix = np.random.default_rng(seed).integers(0, 30, (classes, classes))
    np.fill_diagonal(matrix, 0)
    return matrix


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_the_gradient_of_the_spectral_norm(classes: int) -> None:
    """By differences of numpy's norm, and scaled to its range."""
    matrix = errors(classes, classes).astype(float)
    gradient = np.empty_like(matrix)
    for i in range(classes):
        for j in range(classes):
            step = np.zeros_like(matrix)
            step[i, j] = 1e-5
            gradient[i, j] = (np.linalg.norm(matrix + step, 2) - np.linalg.norm(matrix - step, 2)) / 2e-5
    expected = 0.01 + 2 * (gradient - gradient.min()) / (gradient.max() - gradient.min())
    np.testing.assert_allclose(spectral_weight(torch.tensor(matrix)).numpy(), expected, atol=1e-6)


def test_no_errors_weigh_alike() -> None:
    assert spectral_weight(torch.zeros(4, 4)).unique().tolist() == pytest.approx([1.01])


def trained_on(objective: Any, logits: Tensor, y: Tensor) -> Tensor:
    """Two batches and the end of an epoch; returns G by numpy."""
    for part in (slice(0, 30), slice(30, None)):
        objective.update(ObjectiveValue(torch.zeros(()), logits[part]), y[part])
    objective.end_epoch(ClassStats(10))
    matrix = np.zeros((10, 10))
    for row, label in zip(logits.double().numpy().copy(), y.tolist(), strict=True):
        row[label] -= 0.1 * row[label]
        matrix[row.argmax(), label] += row.argmax() != label
    u, _, vt = np.linalg.svd(matrix)
    g = np.outer(u[:, 0], vt[0])
    return torch.tensor(2 * (g - g.min()) / (g.max() - g.min()) + 0.01)


def test_loss_and_gradient(batch: Batch, model: nn.Module, data: Data, class_rules: Callable[..., Any]) -> None:
    objective = make_objective(CONFIG, data)
    assert isinstance(objective, LearningObjective)
    fair, y = class_rules(0.1), batch.y
    examples = objective.attack(model, batch, fair=fair, target=None, seed=5)
    trades = make_objective(from_dict({"objective": {"name": "trades", "beta": 4.0}, "attack": {"steps": 2}}))
    plain, first = copy.deepcopy(model), copy.deepcopy(model)
    expected = trades.loss(plain, batch, examples, fair=fair).loss
    torch.testing.assert_close(objective.loss(first, batch, examples, fair=fair).loss, expected)

    generator = torch.Generator().manual_seed(1)
    label = torch.randint(10, (99,), generator=generator)
    g = trained_on(objective, torch.randn(99, 10, generator=generator) + 2 * F.one_hot(label, 10), label)
    exact = copy.deepcopy(model).double()
    clean, adversarial = exact(batch.x.double()), exact(examples.x_adv.double())
    p = clean.softmax(1)
    kl = (p * (p / adversarial.softmax(1)).log()).sum(1)
    weight = g[adversarial.argmax(1), y]
    # KL of the vector that is g at the label, as PyTorch has it: its sum over classes of g log g - g log p.
    vector = F.one_hot(y, 10) * weight[:, None]
    theirs = F.kl_div(adversarial.log_softmax(1), vector, reduction="none").sum(1)
    constant = (weight * weight.log()).mean()
    loss = (0.7 * F.cross_entropy(clean, y, reduction="none") + 4 * kl + 0.3 * theirs).mean()
    value = objective.loss(model, batch, examples, fair=fair)
    value.loss.backward()
    loss.backward()
    torch.testing.assert_close(value.loss.detach().double(), (loss - 0.3 * constant).detach(), rtol=1e-4, atol=1e-6)
    for ours, other in zip(model.parameters(), exact.parameters(), strict=True):
        assert ours.grad is not None
        torch.testing.assert_close(ours.grad.double(), other.grad, rtol=1e-3, atol=1e-5)


def test_a_state_carries_the_weights(data: Data) -> None:
    objective, other = make_objective(CONFIG, data), make_objective(CONFIG, data)
    assert isinstance(objective, LearningObjective)
    assert isinstance(other, LearningObjective)
    assert objective.state_dict() == {"weight": None}
    g = trained_on(objective, torch.randn(60, 10, generator=torch.Generator().manual_seed(0)), torch.arange(60) % 10)
    other.load_state_dict(objective.state_dict())
    torch.testing.assert_close(other.state_dict()["weight"], g, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match=r"not a tensor of shape \(10, 10\)"):
        other.load_state_dict({"weight": torch.ones(3)})
