"""A task that a network learns in seconds, noisy copies of a few patterns, and training on attacked images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import fairtat

CLASSES = 6


def noisy_patterns(n: int, *, seed: int, base: float, contrast: float) -> tuple[Tensor, Tensor]:
    """(images (n, 1, 8, 8) in [0, 1], labels)."""
    generator = torch.Generator().manual_seed(7)
    patterns = torch.rand(CLASSES, 1, 8, 8, generator=generator)
    generator.manual_seed(seed)
    y = torch.randint(CLASSES, (n,), generator=generator)
    noise = torch.randn(n, 1, 8, 8, generator=generator)
    return (base + contrast * patterns[y] + 0.15 * noise).clamp(0, 1), y


def train_attacked(model: nn.Module, x: Tensor, y: Tensor, *, steps: int) -> nn.Module:
    """The model, in eval mode, after steps of Adam on batches of 100 that PGD has moved."""
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(steps):
        part = torch.arange(step * 100, (step + 1) * 100) % len(x)
        x_adv = fairtat.fast_pgd(model, x[part], y[part], eps=0.08, step_size=0.03, steps=4, seed=step)
        loss = nn.functional.cross_entropy(model(x_adv), y[part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval()


# The authors' AutoAttack has attacked this network at these radii: make_original.py, test_original.py.
ORIGINAL_EPS = {"linf": 0.05, "l2": 0.3}


def original_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 24),
        nn.ReLU(),
        nn.Linear(24, CLASSES),
    )
