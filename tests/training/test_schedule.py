"""Learning rates against PyTorch's own schedulers."""

from __future__ import annotations

import pytest
import torch

from fairtat.training import Number, OptimConfig
from fairtat.training.schedule import learning_rate


def by_torch(scheduler: torch.optim.lr_scheduler.LRScheduler, optimizer: torch.optim.Optimizer, n: int) -> list[float]:
    rates = []
    for _ in range(n):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("epochs", [1, 4, 20, 200])
def test_step_and_cosine(epochs: int) -> None:
    sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    expected = by_torch(torch.optim.lr_scheduler.CosineAnnealingLR(sgd, epochs), sgd, epochs)
    cosine = OptimConfig(schedule="cosine")
    assert [learning_rate(cosine, epoch, epochs) for epoch in range(epochs)] == pytest.approx(expected)

    if epochs >= 4:
        sgd = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        steps = torch.optim.lr_scheduler.MultiStepLR(sgd, [epochs // 2, epochs * 3 // 4], 0.1)
        expected = by_torch(steps, sgd, epochs)
        assert [learning_rate(OptimConfig(), epoch, epochs) for epoch in range(epochs)] == pytest.approx(expected)


def test_constant() -> None:
    assert {learning_rate(OptimConfig(lr=Number(0.3), schedule="constant"), epoch, 9) for epoch in range(9)} == {0.3}
