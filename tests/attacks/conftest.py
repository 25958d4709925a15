"""The fixtures of attacks and engines, and a small trained network."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from attack_fixtures import alone, company, compiles, fallbacks_are_errors, h, recorded, stub
from noisy_patterns import noisy_patterns, train_attacked
from torch import nn

from fairtat.attacks.autoattack.arena import arena

__all__ = ["alone", "company", "compiles", "fallbacks_are_errors", "h", "recorded", "stub"]


@pytest.fixture(scope="session")
def trained():
    """(model, x, y): trained on attacked images, so that a radius of 0.1 takes some images and leaves others."""
    images = partial(noisy_patterns, base=0.25, contrast=0.5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 6)
        )
        model = train_attacked(model, *images(400, seed=0), steps=60)
    return model, *images(120, seed=1)


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
