"""Learning rates against PyTorch's own schedulers."""

from __future__ import annotations

import pytest
import torch

from fairtat.training import Number, OptimConfig
from fairtat.training.optim.schedule import learning_rate


def by_torch(scheduler: torch.optim.lr_scheduler.LRScheduler, optimizer: torch.optim.Optimizer, n: int) -> list[float]:
    rates = []
    for _ in range(n):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def sgd() -> torch.optim.SGD:
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)


@pytest.mark.parametrize("epochs", [1, 4, 20, 200])
def test_step_and_cosine(epochs: int) -> None:
    optimizer = sgd()
    expected = by_torch(torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs), optimizer, epochs)
    cosine = OptimConfig(schedule="cosine")
    assert [learning_rate(cosine, epoch, epochs) for epoch in range(epochs)] == pytest.approx(expected)

    if epochs >= 4:
        optimizer = sgd()
        steps = torch.optim.lr_scheduler.MultiStepLR(optimizer, [epochs // 2, epochs * 3 // 4], 0.1)
        expected = by_torch(steps, optimizer, epochs)
        assert [learning_rate(OptimConfig(), epoch, epochs) for epoch in range(epochs)] == pytest.approx(expected)


def test_steps_after_every_so_many_epochs() -> None:
    optimizer = sgd()
    expected = by_torch(torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.96), optimizer, 350)
    every = OptimConfig(every=10, gamma=Number(0.96))
    assert [learning_rate(every, epoch, 350) for epoch in range(350)] == pytest.approx(expected)
    assert learning_rate(every, 19.9, 350) == learning_rate(every, 10, 350)


def test_cosine_falls_within_an_epoch() -> None:
    optimizer = sgd()
    expected = by_torch(torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30), optimizer, 30)  # 3 epochs, 10 steps
    cosine = OptimConfig(schedule="cosine")
    assert [learning_rate(cosine, step / 10, 3) for step in range(30)] == pytest.approx(expected)


def test_steps_wait_for_an_epoch_to_end() -> None:
    # Half of three epochs is in the middle of the second one.
    rates = [learning_rate(OptimConfig(milestones=[Number(0.5)]), tenth / 10, 3) for tenth in range(30)]
    assert rates == pytest.approx([0.1] * 20 + [0.01] * 10)


def test_onecycle() -> None:
    total = 100
    optimizer = sgd()
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.4, total_steps=total, cycle_momentum=False)
    expected = by_torch(cycle, optimizer, total - 1)
    onecycle = OptimConfig(lr=Number(0.4), schedule="onecycle")
    # PyTorch reaches the peak one step before 30%, and the end with the last step: the same waves, a step shorter.
    peak, end = 0.3 * total - 1, total - 1
    shares = [0.3 * s / peak if s <= peak else 0.3 + 0.7 * (s - peak) / (end - peak) for s in range(total - 1)]
    assert [learning_rate(onecycle, 5 * share, 5) for share in shares] == pytest.approx(expected)
    assert learning_rate(onecycle, 0, 5) == pytest.approx(0.4 / 25)
    assert learning_rate(onecycle, 1.5, 5) == pytest.approx(0.4)


def test_constant() -> None:
    assert {learning_rate(OptimConfig(lr=Number(0.3), schedule="constant"), epoch, 9) for epoch in range(9)} == {0.3}


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant", "step"])
def test_a_warm_up_rises_step_by_step(schedule: str) -> None:
    optim = OptimConfig(lr=Number(0.2), schedule=schedule, warmup=Number(3))  # type: ignore[arg-type]
    epochs = [0, 0.5, 1.5, 3, 6, 9, 12]
    after = {
        "linear": [1, 2 / 3, 1 / 3, 0],
        "cosine": [1, 0.75, 0.25, 0],
        "constant": [1, 1, 1, 1],
        "step": [1, 0.1, 0.01, 0.01],
    }[schedule]
    expected = [0.2 * share for share in (0, 0.5 / 3, 0.5, *after)]
    assert [learning_rate(optim, epoch, 12) for epoch in epochs] == pytest.approx(expected)


def test_cosine_after_a_warm_up_is_that_of_torch() -> None:
    optimizer = sgd()
    torch_optim = torch.optim.lr_scheduler
    rise = torch_optim.LinearLR(optimizer, 1e-9, 1.0, total_iters=5)
    fall = torch_optim.CosineAnnealingLR(optimizer, 15)
    both = torch_optim.SequentialLR(optimizer, [rise, fall], milestones=[5])
    optim = OptimConfig(schedule="cosine", warmup=Number(5))
    rates = [learning_rate(optim, epoch, 20) for epoch in range(20)]
    assert rates == pytest.approx(by_torch(both, optimizer, 20), abs=1e-9)
