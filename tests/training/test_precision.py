"""Mixed precision: what autocast covers, and what happens to a float16 step that overflows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from fairtat.training import TrainConfig
from fairtat.training.precision import Precision

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
