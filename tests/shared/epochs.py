"""Epochs for the rules of fairness, and what it means for their states and answers to be the same."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor

from fairtat import FairTAT

EPS = 8 / 255
CLASSES = 5


def epoch_batches(epoch: int, batches: int = 4, n: int = 33) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(logits, labels, sample ids) of an epoch: imbalanced, often wrong, class 4 rarely there."""
    generator = torch.Generator().manual_seed(epoch)
    total = batches * n
    label = (torch.rand(total, generator=generator) ** 2 * CLASSES).long()
    logits = torch.randn(total, CLASSES, generator=generator)
    logits[torch.arange(total), label] += 1.0
    ids = torch.randperm(total, generator=generator)
    return list(zip(logits.split(n), label.split(n), ids.split(n), strict=True))


def run_epoch(fair: FairTAT, batches: list[tuple[Tensor, Tensor, Tensor]], with_ids: bool = True) -> list[Tensor]:
    """What a training loop asks for: the targets and radii of every batch, in order."""
    seen = []
    for logits, label, ids in batches:
        target = fair.sample_targets(label, ids if with_ids else None)
        fair.update(logits, label, target)
        seen += [fair.eps_for(label)] if target is None else [target, fair.eps_for(label)]
    return seen


def saved_and_loaded(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(map(torch.equal, a, b))
