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
from fairtat.training.objectives import ObjectiveValue


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
def assert_step() -> Callable[..., None]:
    """A step has the loss, logits, gradients and buffers that are computed by hand with a copy of the model."""

    def check(value: ObjectiveValue, model: nn.Module, loss: Tensor, logits: Tensor, by_hand: nn.Module) -> None:
        value.loss.backward()
        loss.backward()
        torch.testing.assert_close(value.loss, loss)
        assert torch.equal(value.logits, logits)
        assert not value.logits.requires_grad
        for ours, theirs in zip(model.parameters(), by_hand.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)
        for ours, theirs in zip(model.buffers(), by_hand.buffers(), strict=True):
            assert torch.equal(ours, theirs)

    return check


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
