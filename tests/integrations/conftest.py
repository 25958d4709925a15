"""A small network, images and labels for every adapter; both libraries start from the same random numbers."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from fairtat import errors


@dataclass(frozen=True)
class Problem:
    model: nn.Module
    x: Tensor  # (13, 3, 6, 5)
    y: Tensor  # (13,)
    target: Tensor  # (13,)

    def agrees(self, ours: Tensor, peers: Tensor, step: float) -> None:
        """Equal up to rounding; where a gradient is as good as zero, rounding may decide its sign."""
        assert ours.shape == peers.shape == self.x.shape
        assert ours.dtype == peers.dtype
        far = (ours - peers).abs() > 1e-5
        assert far.float().mean() < 0.002
        assert (ours - peers).abs().max() <= 20 * step
        assert not torch.equal(ours, self.x)


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch):
    """A reason for a peer's own loop is told once in a process; here once in a test."""
    monkeypatch.setattr(errors, "_SAID", set())


@pytest.fixture
def problem() -> Problem:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 6 * 5, 7)
    )
    with torch.no_grad():
        model[4].weight.mul_(4)
    y = torch.randint(0, 7, (13,))
    return Problem(model.eval(), torch.rand(13, 3, 6, 5), y, (y + 1 + torch.randint(0, 5, (13,))) % 7)
