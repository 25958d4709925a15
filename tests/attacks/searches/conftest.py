"""A small smooth network whose Jacobian numpy knows, and one that is affine, of which all distances are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

DTYPE = torch.float64


@pytest.fixture
def smooth():
    """(model, evaluate, x (7, 2, 1, 3), logits (7, 4)): ``evaluate``: flat point -> (logits, Jacobian (4, 6))."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double().eval()
        x = torch.rand(7, 2, 1, 3, dtype=DTYPE)
    with torch.no_grad():
        for layer in (model[1], model[3]):
            layer.weight.mul_(4)
        model[3].bias.sub_(model(torch.full_like(x[:1], 0.5))[0])
        logits = model(x)
    first, b1, second, b2 = (p.detach().numpy() for p in model.parameters())

    def evaluate(point):
        hidden = np.tanh(first @ point + b1)
        return second @ hidden + b2, (second * (1 - hidden**2)) @ first

    return model, evaluate, x, logits


@pytest.fixture
def affine():
    """``of(norm, classes, confidence)``: (model, x, y, distance, nearest class), each (N,)."""

    def of(norm, classes=4, confidence=0.0):
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(classes, 15, generator=generator, dtype=DTYPE)
        model = nn.Sequential(nn.Flatten(), nn.Linear(15, classes)).double()
        with torch.no_grad():
            model[1].weight.copy_(weight)
            model[1].bias.copy_(-0.5 * weight.sum(1))
        x = 0.3 + 0.4 * torch.rand(150, 3, 1, 5, generator=generator, dtype=DTYPE)
        z = model(x).detach()
        y = z.argmax(1)
        reach = (weight[y][:, None] - weight).norm(p=1 if norm == "linf" else 2, dim=2)
        far = ((z.gather(1, y[:, None]) - z + confidence) / reach).scatter(1, y[:, None], torch.inf)
        distance, goal = far.min(1)
        near = (distance > 0.01) & (distance < 0.2)  # so that no pixel meets its bounds
        assert near.sum() > 20
        return model, x[near], y[near], distance[near], goal[near]

    return of
