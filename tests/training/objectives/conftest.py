"""A batch, and class rules that a test sets by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from fairtat.data import Batch
from fairtat.fairness import FairTAT
from fairtat.models import digits_cnn


@dataclass(frozen=True)
class ClassRules:
    """What `FairTAT` answers, by tables of one number a class."""

    eps: Tensor  # (C,)
    step_scale: Tensor | None = None
    weight: Tensor | None = None
    robust_weight: Tensor | None = None
    robustness: Tensor | None = None  # A_k of beta_k = (lam + A_k) * beta
    lam: float = 0.5
    weight_rule: Any = None
    epoch: int = 0

    def eps_for(self, y: Tensor) -> Tensor:
        return self.eps[y]

    def step_scale_for(self, y: Tensor) -> Tensor | None:
        return None if self.step_scale is None else self.step_scale[y]

    def weight_for(self, y: Tensor) -> Tensor | None:
        return None if self.weight is None else self.weight[y]

    def robust_weight_for(self, y: Tensor) -> Tensor | None:
        return None if self.robust_weight is None else self.robust_weight[y]

    def beta_for(self, y: Tensor, beta: float, *, lam: float | None = None) -> Tensor | None:
        constant = self.lam if lam is None else lam
        return None if self.robustness is None else (constant + self.robustness[y]) * beta


@pytest.fixture
def class_rules() -> Callable[..., FairTAT]:
    """``class_rules(eps=0.1, weight=table)``: every table has one number a class."""

    def make(eps: float | Tensor = 0.1, **tables: Any) -> FairTAT:
        radii = torch.full((10,), eps) if isinstance(eps, float) else eps
        return cast(FairTAT, ClassRules(radii, **tables))

    return make


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(20, 1, 8, 8, generator=generator)
    return Batch(x, torch.arange(20) % 10, torch.arange(100, 120))


@pytest.fixture
def model() -> nn.Module:
    """A CNN with BatchNorm in train mode, whose statistics are no longer those of a new network."""
    torch.manual_seed(3)
    network = digits_cnn(10, 1, (8, 8), width=4).train()
    with torch.no_grad():
        for _ in range(10):
            network(torch.rand(32, 1, 8, 8))
        for parameter in network.parameters():
            parameter.mul_(1.5)
    return network
