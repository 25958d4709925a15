"""GradAlign against its equation in float64: the loss, and its gradient to the parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairtat.data import Batch
from fairtat.training.config import from_dict
from fairtat.training.objectives import make_objective
from fairtat.training.objectives.grad_align import misalignment


def smooth(model: nn.Module) -> nn.Module:
    """With activations whose second derivative is not zero, and BatchNorm in eval mode."""
    for parent in model.modules():
        for name, layer in parent.named_children():
            if isinstance(layer, nn.ReLU):
                setattr(parent, name, nn.SiLU())
    return model.eval()


def by_hand(model: nn.Module, x: Tensor, nearby: Tensor, y: Tensor) -> Tensor:
    """Sample by sample, (N,)."""
    rows = []
    for i in range(len(y)):
        gradients = []
        for images in (x, nearby):
            leaf = images[i : i + 1].double().requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), y[i : i + 1]), leaf, create_graph=True)
            gradients.append(gradient.flatten())
        one, two = gradients
        rows.append(1 - one @ two / (one.norm() * two.norm()))
    return torch.stack(rows)


def test_by_the_equation(batch: Batch, model: nn.Module, class_rules: Callable[..., Any]) -> None:
    model, rules = smooth(model), class_rules(0.1)
    config = {"attack": {"steps": 1, "rel_step": 1.25}, "objective": {"grad_align": 0.7, "label_smoothing": 0.1}}
    objective = make_objective(from_dict(config))
    examples = objective.attack(model, batch, fair=rules, target=None, seed=3)
    (nearby,) = examples.more
    assert 0.09 < float((nearby - batch.x).abs().max()) <= 0.1 + 1e-6
    loss = objective.loss(model, batch, examples, fair=rules).loss
    found = torch.autograd.grad(loss, list(model.parameters()))

    exact = copy.deepcopy(model).double()
    own = F.cross_entropy(exact(examples.x_adv.double()), batch.y, label_smoothing=0.1)
    expected = own + 0.7 * by_hand(exact, batch.x, nearby, batch.y).mean()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    for ours, theirs in zip(found, torch.autograd.grad(expected, list(exact.parameters())), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-3, atol=1e-5 * float(theirs.abs().max()) + 1e-6)


def test_gradients_of_zero_and_nearly_zero(batch: Batch) -> None:
    """A dead model has no angles; one that is all but sure has those of a model that is not."""
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    dead = copy.deepcopy(linear)
    nn.init.zeros_(dead[1].weight)
    value = misalignment(dead, batch.x, batch.x * 0.9, batch.y)
    value.sum().backward()
    assert not value.any()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in dead.parameters())
    faint = copy.deepcopy(linear)
    with torch.no_grad():
        faint[1].weight.mul_(1e-22)  # squares of its gradients are below float32
    expected = by_hand(copy.deepcopy(faint).double(), batch.x, batch.x * 0.5, batch.y)
    torch.testing.assert_close(
        misalignment(faint, batch.x, batch.x * 0.5, batch.y).double(), expected, rtol=0, atol=1e-6
    )
