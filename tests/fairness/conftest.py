"""Statistics made by hand: what was predicted for which label, and for which target."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch.nn.functional import one_hot

from fairtat import ClassStats

Counted = Callable[..., ClassStats]


@pytest.fixture
def counted() -> Counted:
    def build(
        num_classes: int, label: Sequence[int], pred: Sequence[int], target: Sequence[int] | None = None
    ) -> ClassStats:
        logits = 5.0 * one_hot(torch.tensor(pred), num_classes).float()
        stats = ClassStats(num_classes)
        return stats.update(logits, torch.tensor(label), None if target is None else torch.tensor(target))

    return build
