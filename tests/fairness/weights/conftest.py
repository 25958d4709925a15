"""Epochs for a weighting rule: imbalanced, often wrong, with a class that is rare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from fairtat import ClassStats
from fairtat.fairness import WeightRule

CLASSES = 5


@dataclass
class Epoch:
    """What a rule is told during an epoch."""

    batches: list[tuple[Tensor, Tensor]]  # adversarial logits, labels
    clean: ClassStats
    robust: ClassStats

    @property
    def train(self) -> ClassStats:
        stats = ClassStats(CLASSES)
        for logits, label in self.batches:
            stats.update(logits, label)
        return stats

    @staticmethod
    def tell(rule: WeightRule, logits: Tensor, label: Tensor) -> None:
        """A batch, with numbers of steps for a rule that counts them."""
        rule.update(logits, label)
        rule.observe_steps((logits[:, 0].abs() * 5).long(), label)

    def run(self, rule: WeightRule) -> None:
        for logits, label in self.batches:
            self.tell(rule, logits, label)
        rule.observe_validation(self.clean, self.robust)
        rule.end_epoch(self.train)


def draw(generator: torch.Generator, n: int, lead: float) -> tuple[Tensor, Tensor]:
    label = (torch.rand(n, generator=generator) ** 2 * CLASSES).long()
    logits = torch.randn(n, CLASSES, generator=generator)
    logits[torch.arange(n), label] += lead
    return logits, label


@pytest.fixture
def make_epoch() -> Callable[[int], Epoch]:
    def make(number: int) -> Epoch:
        generator = torch.Generator().manual_seed(number)
        batches = [draw(generator, 33, lead=1.0) for _ in range(4)]
        clean = ClassStats(CLASSES).update(*draw(generator, 61, lead=2.0))
        robust = ClassStats(CLASSES).update(*draw(generator, 61, lead=0.5))
        return Epoch(batches, clean, robust)

    return make
