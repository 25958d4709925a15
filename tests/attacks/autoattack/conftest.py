"""A small trained network, and what these tests share."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fairtat
from fairtat.attacks.autoattack.arena import arena


def blobs(n, classes=6, seed=0):
    """(images (n, 1, 8, 8) in [0, 1], labels): noisy copies of a few patterns."""
    generator = torch.Generator().manual_seed(7)
    patterns = torch.rand(classes, 1, 8, 8, generator=generator)
    generator.manual_seed(seed)
    y = torch.randint(classes, (n,), generator=generator)
    noise = torch.randn(n, 1, 8, 8, generator=generator)
    return (0.25 + 0.5 * patterns[y] + 0.15 * noise).clamp(0, 1), y


@pytest.fixture(scope="session")
def trained():
    """(model, x, y): trained on attacked images, so that a radius of 0.1 takes some images and leaves others."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 6)
        )
        x, y = blobs(400)
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for step in range(60):
            part = torch.arange(step * 100, (step + 1) * 100) % 400
            x_adv = fairtat.fast_pgd(model, x[part], y[part], eps=0.08, step_size=0.03, steps=4, seed=step)
            loss = nn.functional.cross_entropy(model(x_adv), y[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    optimizer.zero_grad()
    return model.eval(), *blobs(120, seed=1)


def opened(model, x, y, **options):
    """The arena of a call with these options."""
    given = {
        "target": None, "sample_ids": None, "eps": 0.1, "norm": "linf", "bounds": (0.0, 1.0), "normalize": None,
        "amp": None, "gradient": "autograd", "seed": 0, "engine": "eager", "engine_check": "first",
        "chunk_size": None, "check": True,
    }  # fmt: skip
    return arena(model, x, y, **{**given, **options})


@pytest.fixture
def open_arena():
    return opened
