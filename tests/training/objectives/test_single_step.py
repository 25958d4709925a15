"""Single-step attacks of training: FGSM from a random start, and N-FGSM, by their equations in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairtat import ops
from fairtat.data import Batch
from fairtat.training.config import from_dict
from fairtat.training.objectives import make_objective

RADII = torch.linspace(0.03, 0.12, 10)


def step(model: nn.Module, start: Tensor, y: Tensor, sign: int) -> Tensor:
    """The sign of the gradient at the start, sample by sample."""
    exact, rows = copy.deepcopy(model).double().eval(), []
    for i in range(len(y)):
        leaf = start[i : i + 1].double().requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(exact(leaf), y[i : i + 1]), leaf)
        rows.append(sign * grad.sign())
    return torch.cat(rows)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(
    ("attack", "noise", "length", "projected"),
    [({"rel_step": 1.25}, 1.0, 1.25, True), ({"rel_step": 1.0, "noise": 2.0}, 2.0, 1.0, False)],
    ids=["fgsm-rs", "n-fgsm"],
)
def test_by_the_equation(
    batch: Batch,
    model: nn.Module,
    class_rules: Callable[..., Any],
    attack: dict[str, Any],
    noise: float,
    length: float,
    projected: bool,
    targeted: bool,
) -> None:
    objective = make_objective(from_dict({"attack": {"steps": 1, **attack}}))
    target = (batch.y + 3) % 10 if targeted else None
    x_adv = objective.attack(model, batch, fair=class_rules(RADII), target=target, seed=7).x_adv
    eps = RADII[batch.y]
    start, radius = ops.pgd_init(batch.x, noise * eps, seed=7, sample_ids=batch.ids), eps.view(-1, 1, 1, 1).double()
    goal, sign = (batch.y, 1) if target is None else (target, -1)
    moved = start.double() + length * radius * step(model, start, goal, sign)
    x = batch.x.double()
    if projected:
        moved = moved.clamp(x - radius, x + radius)
    expected = moved.clamp(0, 1)
    # Where a gradient is all but zero its sign is a matter of rounding.
    assert ((x_adv - expected).abs() > 1e-5).float().mean() < 0.01
    farthest = float(((x_adv - x).abs() / radius).max())
    assert farthest <= 1 + 1e-5 if projected else 1.5 < farthest <= 3 + 1e-5
