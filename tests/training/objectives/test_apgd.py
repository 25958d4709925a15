"""APGD as the attack of training, against its algorithm written out in float64, one sample at a time."""

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

RADII = torch.linspace(0.03, 0.12, 10)


def by_hand(model: nn.Module, x: Tensor, goal: Tensor, sign: int, eps: float, steps: int) -> Tensor:
    """From the image itself, for x (1, ...): the point of the largest loss."""

    def look(point: Tensor) -> tuple[float, Tensor]:
        leaf = point.clone().requires_grad_()
        loss = sign * F.cross_entropy(model(leaf), goal)
        return float(loss.detach()), torch.autograd.grad(loss, leaf)[0]

    def project(point: Tensor) -> Tensor:
        return point.clamp(x - eps, x + eps).clamp(0, 1)

    period, shorter, least = (max(int(share * steps), 1) for share in (0.22, 0.03, 0.06))
    step, now, old = 2 * eps, x.clone(), x.clone()
    loss, grad = look(now)
    best, best_at, best_grad = loss, now, grad
    losses, at_check, halved, since = [loss], loss, True, 0
    for k in range(steps):
        z = project(now + step * grad.sign())
        share = 1.0 if k == 0 else 0.75
        now, old = project(now + share * (z - now) + (1 - share) * (now - old)), now
        loss, grad = look(now)
        losses.append(loss)
        if loss > best:
            best, best_at, best_grad = loss, now, grad
        since += 1
        if since == period:
            rises = sum(losses[-i] > losses[-i - 1] for i in range(1, period + 1))
            halved = rises <= 0.75 * period or (not halved and at_check >= best)
            if halved:
                step, now, grad = step / 2, best_at, best_grad
            at_check, since, period = best, 0, max(period - shorter, least)
    return best_at


@pytest.mark.parametrize("steps", [1, 2, 10])
@pytest.mark.parametrize("targeted", [False, True])
def test_by_the_algorithm(
    batch: Batch, model: nn.Module, class_rules: Callable[..., Any], steps: int, targeted: bool
) -> None:
    objective = make_objective(from_dict({"attack": {"name": "apgd", "steps": steps, "init": "zero"}}))
    target = (batch.y + 3) % 10 if targeted else None
    x_adv = objective.attack(model, batch, fair=class_rules(RADII), target=target, seed=7).x_adv
    exact, x = copy.deepcopy(model).double().eval(), batch.x.double()
    goal, sign = (batch.y, 1) if target is None else (target, -1)
    expected = torch.cat(
        [by_hand(exact, x[i : i + 1], goal[i : i + 1], sign, float(RADII[batch.y[i]]), steps) for i in range(len(x))]
    )
    # Where a gradient is all but zero its sign is a matter of rounding.
    assert ((x_adv - expected).abs() > 1e-5).double().mean() < 0.02
    radius = RADII[batch.y].view(-1, 1, 1, 1)
    assert float(((x_adv - batch.x).abs() / radius).max()) <= 1 + 1e-5


def test_no_sample_is_left_as_it_was(batch: Batch, model: nn.Module, class_rules: Callable[..., Any]) -> None:
    """Unlike fairtat.apgd, which returns images that are wrong already, or cannot be fooled, as they are."""
    objective = make_objective(from_dict({"attack": {"name": "apgd", "steps": 3}}))
    modes = [module.training for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    x_adv = objective.attack(model, batch, fair=class_rules(0.1), target=None, seed=7).x_adv
    assert not ((x_adv - batch.x).flatten(1).abs().amax(1) == 0).any()
    exact = model.eval()
    with torch.no_grad():
        before, after = (F.cross_entropy(exact(images), batch.y, reduction="none") for images in (batch.x, x_adv))
    assert (after > before).float().mean() > 0.9
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert modes[0] is True
