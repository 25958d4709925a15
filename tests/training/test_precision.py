"""Mixed precision: what autocast covers, and what happens to a float16 step that overflows."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fairtat import errors
from fairtat.data import load_splits
from fairtat.training import TrainConfig, dry_run, resume, train
from fairtat.training.config import from_dict, load_yaml
from fairtat.training.distributed import World
from fairtat.training.precision import Precision, settle_amp, settle_format

CPU = torch.device("cpu")


def one_weight(value: float = 1.0) -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
    weight = torch.nn.Parameter(torch.tensor([value]))
    return weight, torch.optim.SGD([weight], lr=0.5)


@pytest.mark.parametrize(("amp", "dtype"), [("none", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_autocast_is_that_of_the_configuration(tiny: Callable[..., TrainConfig], amp: str, dtype: torch.dtype) -> None:
    with Precision(tiny(amp=amp), CPU).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype


@pytest.mark.parametrize("amp", ["none", "bf16", "fp16"])
@pytest.mark.parametrize(("clip", "step"), [(None, 0.5 * 3.0), (10.0, 0.5 * 3.0), (1.5, 0.5 * 1.5)])
def test_the_limit_applies_to_the_gradient_and_not_to_its_scaled_twin(
    tiny: Callable[..., TrainConfig], amp: str, clip: float | None, step: float
) -> None:
    weight, optimizer = one_weight()
    precision = Precision(tiny(amp=amp), CPU)
    precision.scaled((3.0 * weight).sum()).backward()
    precision.step(optimizer, clip)
    assert float(weight.detach()) == pytest.approx(1.0 - step, rel=1e-6)


def test_a_float16_step_that_overflows_is_left_out_and_the_scale_goes_on_after_a_restart(
    tiny: Callable[..., TrainConfig],
) -> None:
    weight, optimizer = one_weight()
    precision = Precision(tiny(amp="fp16"), CPU)
    before = precision.state_dict()["scale"]
    precision.scaled((weight * torch.inf).sum()).backward()
    precision.step(optimizer, clip=None)
    assert float(weight.detach()) == 1.0
    after = precision.state_dict()
    assert after["scale"] == before / 2

    resumed = Precision(tiny(amp="fp16"), CPU)
    resumed.load_state_dict(after)
    assert float(resumed.scaled(torch.ones(()))) == before / 2
    assert Precision(tiny(), CPU).state_dict() == {}


# What is left to the device


@pytest.fixture(params=[True, False], ids=["native", "emulated"])
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """A CPU with or without instructions for bfloat16, of which nothing was said yet."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": request.param})
    monkeypatch.setattr(errors, "_SAID", set())
    return bool(request.param)


def test_auto_is_bf16_where_it_is_native_and_nothing_elsewhere(tiny: Callable[..., TrainConfig], native: bool) -> None:
    assert settle_amp(tiny(amp="auto"), CPU).amp == ("bf16" if native else "none")
    assert [settle_amp(tiny(amp=amp), CPU).amp for amp in ("none", "bf16", "fp16")] == ["none", "bf16", "fp16"]


def test_emulated_bf16_is_said_once(
    tiny: Callable[..., TrainConfig], native: bool, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    with caplog.at_level(logging.WARNING, logger="fairtat"):
        train(tiny(amp="bf16", epochs=1))
        dry_run(tiny(amp="bf16", output=None))
        settle_amp(tiny(amp="auto"), CPU)
    said = [record.getMessage() for record in caplog.records]
    if native:
        assert said == []
    else:
        (line,) = said
        assert line.startswith("warning: amp is bf16: this CPU has no instructions for bfloat16")
    assert not [w for w in recwarn if "bfloat16" in str(w.message)]  # the attack does not say it again


def test_a_run_keeps_what_auto_has_become(
    tiny: Callable[..., TrainConfig], native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"name": "digits_cnn", "options": {"width": 4}}
    config = tiny(model=model, amp="auto", channels_last="auto", epochs=1, optim={"schedule": "constant"})
    folder = train(config).path
    kept = from_dict(load_yaml(folder / "config.yaml"))
    assert kept.amp == ("bf16" if native else "none")
    assert isinstance(kept.channels_last, bool)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": not native})
    resumed = tiny(model=model, amp="auto", channels_last="auto", epochs=2, optim={"schedule": "constant"})
    assert resume(folder, config=resumed).epoch == 2
    assert from_dict(load_yaml(folder / "config.yaml")).amp == kept.amp


@pytest.mark.parametrize(("seconds", "chosen"), [((1.0, 0.8), True), ((1.0, 0.95), False), ((0.8, 1.0), False)])
def test_the_memory_format_is_what_takes_clearly_less_time(
    tiny: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch, seconds: tuple[float, float], chosen: bool
) -> None:
    class Slow(nn.Module):
        """Takes so long for contiguous and for channels_last images, but at the first pass, by a clock of its own."""

        now = 0.0
        passes = 0

        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(2, 3, 3)  # with one channel the formats would be the same
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            last = self.convolution.weight.is_contiguous(memory_format=torch.channels_last)
            Slow.now += 100.0 - 90.0 * last if self.passes == 0 else seconds[last]
            self.passes += 1
            return nn.functional.dropout(self.norm(self.convolution(x.expand(-1, 2, -1, -1))), 0.5, self.training).mean(
                (2, 3)
            )

    monkeypatch.setattr(time, "process_time", lambda: Slow.now)
    model, data = Slow(), load_splits("digits", val=0.05, test=0.6).train
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    settled = settle_format(tiny(channels_last="auto"), model, data, World())
    assert settled.channels_last is chosen
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.convolution.weight.grad is None


def test_a_memory_format_that_was_asked_for_is_not_timed(tiny: Callable[..., TrainConfig]) -> None:
    data = load_splits("digits", val=0.05, test=0.6).train
    for asked in (True, False):
        assert settle_format(tiny(channels_last=asked), nn.Identity(), data, World()).channels_last is asked
    assert settle_format(tiny(channels_last="auto"), nn.Linear(64, 10), data, World()).channels_last is False
