"""Samples of classes that differ in size and difficulty, and options with which each rule of weights has an effect."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CLASSES = 5
WEIGHT_OPTIONS: dict[str, dict[str, Any]] = {
    "dafa": {"warmup": 2},
    "frl": {"tau1": 0.01, "tau2": 0.01},
    "wat": {"eta": 1.0},
    "cfol": {},
    "fair_ard": {"clamp": [0.1, 10.0]},
    "even_success": {},
}


def samples(seed: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """(logits, labels, sample ids): imbalanced, often wrong, class 4 rarely there."""
    generator = torch.Generator().manual_seed(seed)
    label = (torch.rand(n, generator=generator) ** 2 * CLASSES).long()
    logits = torch.randn(n, CLASSES, generator=generator)
    logits[torch.arange(n), label] += 1.0
    return logits, label, torch.randperm(n, generator=generator)
