"""Weight averaging on numbers that can be followed by hand."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn

from fairtat.training.config import AveragingConfig, Number
from fairtat.training.optim.averaging import WeightAveraging, make_averaging


class OneWeight(nn.Module):
    """A parameter, a floating-point buffer and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer("running", torch.zeros(1))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def become(self, value: float) -> None:
        with torch.no_grad():
            self.weight.fill_(value)
            self.running.fill_(10 * value)
            self.count.fill_(int(value))


def averaging_of(model: nn.Module, name: Any = "ema", decay: float = 0.75, **settings: Any) -> WeightAveraging:
    made = make_averaging(AveragingConfig(name=name, decay=Number(decay), **settings), model)
    assert made is not None
    return made


def values(averaging: WeightAveraging) -> tuple[float, float, int]:
    model: Any = averaging.model
    return float(model.weight), float(model.running), int(model.count)


def test_ema_of_epochs() -> None:
    model = OneWeight()
    averaging = averaging_of(model)
    seen = []
    for epoch, value in enumerate((8.0, 4.0, 0.0)):
        model.become(value)
        averaging.after_step(epoch)  # counts only with every: step
        averaging.after_epoch(epoch, worst_robust=0.0)
        seen.append(values(averaging))
    # 8; 0.75 * 8 + 0.25 * 4 = 7; 0.75 * 7 + 0.25 * 0 = 5.25; the counter is the last one.
    assert seen == [(8.0, 80.0, 8), (7.0, 70.0, 4), (5.25, 52.5, 0)]


def test_ema_of_steps_begins_after_its_epochs() -> None:
    model = OneWeight()
    averaging = averaging_of(model, every="step", begin=1)
    for epoch, steps in enumerate(((1.0, 2.0), (8.0, 4.0))):
        for value in steps:
            model.become(value)
            averaging.after_step(epoch)
        averaging.after_epoch(epoch, worst_robust=0.0)
        if epoch == 0:
            assert values(averaging) == (2.0, 20.0, 2)  # the plain weights so far
    assert values(averaging) == (7.0, 70.0, 4)


def test_ema_of_epochs_follows_the_plain_weights_until_it_begins() -> None:
    model = OneWeight()
    averaging = averaging_of(model, begin=2)
    seen = []
    for epoch, value in enumerate((1.0, 2.0, 8.0, 4.0)):
        model.become(value)
        averaging.after_epoch(epoch, worst_robust=0.0)
        seen.append(values(averaging)[0])
    assert seen == [1.0, 2.0, 8.0, 7.0]


def test_fawa_moves_only_after_fair_epochs() -> None:
    model = OneWeight()
    averaging = averaging_of(model, name="fawa", threshold=Number(0.2))
    assert averaging.needs_validation
    seen = []
    epochs = [(3.0, 0.1), (8.0, 0.2), (100.0, 0.19), (4.0, 0.5), (50.0, 0.0)]
    for epoch, (value, worst_robust) in enumerate(epochs):
        model.become(value)
        averaging.after_epoch(epoch, worst_robust)
        seen.append(values(averaging))
    # Plain until the first fair epoch, which is copied; then unfair epochs leave no trace, in the counter neither.
    assert seen == [(3.0, 30.0, 3), (8.0, 80.0, 8), (8.0, 80.0, 8), (7.0, 70.0, 4), (7.0, 70.0, 4)]


def test_swa_is_the_mean_of_all_weights_since_it_began() -> None:
    model = OneWeight()
    averaging = averaging_of(model, name="swa", begin=1)
    seen = []
    for epoch, value in enumerate((100.0, 6.0, 2.0, 1.0)):
        model.become(value)
        averaging.after_epoch(epoch, worst_robust=0.0)
        seen.append(values(averaging)[0])
    assert seen == pytest.approx([100.0, 6.0, 4.0, 3.0])


def test_statistics_of_an_average_are_those_of_its_own_activations() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, momentum=0.3))
    averaging = averaging_of(model, name="swa")
    batches = [torch.rand(4, 1, 5, 5), torch.rand(4, 1, 5, 5)]
    for epoch in range(3):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        averaging.after_epoch(epoch, worst_robust=0.0)
    averaging.estimate_batchnorm(batches)
    inner = copy.deepcopy(averaging.model[0]).double()
    outputs = [inner(batch.double()).detach() for batch in batches]
    norm = averaging.model[1]
    expected = torch.stack([output.mean((0, 2, 3)) for output in outputs]).mean(0)
    torch.testing.assert_close(norm.running_mean.double(), expected, rtol=1e-5, atol=1e-6)
    variance = torch.stack([output.var((0, 2, 3)) for output in outputs]).mean(0)
    torch.testing.assert_close(norm.running_var.double(), variance, rtol=1e-5, atol=1e-6)
    assert (norm.momentum, norm.training) == (0.3, False)
    averaged = averaging_of(model, batchnorm="average", name="swa")
    averaged.after_epoch(0, worst_robust=0.0)
    averaged.estimate_batchnorm(batches)
    assert torch.equal(averaged.model[1].running_mean, model[1].running_mean)


def test_no_averaging() -> None:
    assert make_averaging(AveragingConfig(name="none"), OneWeight()) is None


def test_the_average_of_a_network() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(108, 2)).train()
    averaging = averaging_of(model, decay=0.9)
    history = []
    for epoch in range(4):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        model(torch.rand(5, 1, 8, 8))
        history.append(copy.deepcopy(model.state_dict()))
        averaging.after_epoch(epoch, worst_robust=0.0)
    shares = [0.9**3, 0.1 * 0.9**2, 0.1 * 0.9, 0.1]
    for key, ours in averaging.model.state_dict().items():
        if ours.is_floating_point():
            expected = sum(share * state[key].double() for share, state in zip(shares, history, strict=True))
            torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(ours, history[-1][key])
    assert not any(module.training for module in averaging.model.modules())
    assert not any(parameter.requires_grad for parameter in averaging.model.parameters())
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    x = torch.rand(5, 1, 8, 8)
    averaging.model(x)  # eval mode: validating moves nothing
    assert averaging.model[1].num_batches_tracked == 4


@pytest.mark.parametrize("name", ["ema", "fawa", "swa"])
@pytest.mark.parametrize("stopped", [1, 2, 4])
def test_resumes_to_the_same_bits(name: str, stopped: int) -> None:
    """Stopped before averaging begins, right after, and later."""
    epochs = [(torch.randn(1).item(), worst) for worst in (0.0, 0.3, 0.1, 0.4, 0.3, 0.0)]

    def run(averaging: WeightAveraging, model: OneWeight, first: int, last: int) -> None:
        for epoch in range(first, last):
            value, worst = epochs[epoch]
            model.become(value)
            averaging.after_epoch(epoch, worst)

    whole, part, resumed = OneWeight(), OneWeight(), OneWeight()
    uninterrupted, before, after = (averaging_of(m, name=name, begin=1) for m in (whole, part, resumed))
    run(uninterrupted, whole, 0, 6)
    run(before, part, 0, stopped)
    file = io.BytesIO()
    torch.save(before.state_dict(), file)
    file.seek(0)
    after.load_state_dict(torch.load(file, weights_only=True))
    run(after, resumed, stopped, 6)
    for key, value in uninterrupted.model.state_dict().items():
        assert torch.equal(after.model.state_dict()[key], value)
