"""A radius that cannot be meant is refused at every door, with what was meant."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import fairtat
from fairtat import errors
from fairtat.errors import UserError
from fairtat.evaluation import evaluate
from fairtat.radius import check_radius
from fairtat.training import Number, TrainConfig
from fairtat.training.config import AttackConfig, EvalConfig

X, Y = torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 2, 3])
MODEL = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
QUICK: dict[str, Any] = {"steps": 1}


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "_SAID", set())


def asked(attack: str = "pgd-1", **options: Any) -> Callable[[float], object]:
    """evaluate with a radius in the given attack's name, or in the options."""
    return lambda eps: evaluate(MODEL, X, Y, attacks=[attack.format(eps)], check_sanity=False, **options)


DOORS: dict[str, Callable[[float], object]] = {
    "fast_pgd": lambda eps: fairtat.fast_pgd(MODEL, X, Y, eps=eps, **QUICK),
    "fast_targeted_pgd": lambda eps: fairtat.fast_targeted_pgd(MODEL, X, (Y + 1) % 4, eps=eps, **QUICK),
    "a tensor": lambda eps: fairtat.fast_pgd(MODEL, X, Y, eps=torch.tensor([0.1, 0.2, eps, 0.0]), **QUICK),
    "TargetedPGD": lambda eps: fairtat.TargetedPGD(MODEL, eps=eps),
    "FairTAT": lambda eps: fairtat.FairTAT(4, eps),
    "training": lambda eps: TrainConfig(attack=AttackConfig(eps=Number(eps))),
    "validation": lambda eps: TrainConfig(eval=EvalConfig(eps=Number(eps))),
    "evaluate": lambda eps: evaluate(MODEL, X, Y, attacks=["pgd-1"], eps=eps, check_sanity=False),
    "an attack's name": asked("pgd-1@{}", eps=0.1),
    "a stage of a suite": asked("fgsm+cw-1@{}", eps=0.1),
    "a sweep": lambda eps: evaluate(MODEL, X, Y, attacks=["pgd-1"], eps=0.1, eps_sweep=[0.1, eps], check_sanity=False),
}
IN_L2: dict[str, Callable[[float], object]] = {
    "fast_pgd": lambda eps: fairtat.fast_pgd(MODEL, X, Y, eps=eps, norm="l2", **QUICK),
    "FairTAT": lambda eps: fairtat.FairTAT(4, eps, norm="l2"),
    "training": lambda eps: TrainConfig(attack=AttackConfig(eps=Number(eps), norm="l2")),
    "an attack's name": asked("pgd-1:l2@{}", eps=0.1),
}


@pytest.mark.parametrize("door", DOORS)
def test_a_radius_in_levels_is_refused_with_what_was_meant(door: str) -> None:
    message = r"eps must be at most 1 in linf, the range of bounds \(0\.0, 1\.0\), got 8; did you mean 8/255\?"
    with pytest.raises((ValueError, UserError), match=message):
        DOORS[door](8)


@pytest.mark.parametrize("door", DOORS)
def test_a_radius_above_half_of_the_range_is_warned_of_once(door: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        DOORS[door](0.75)
        DOORS[door](0.75)
    assert "eps is 0.75, more than half of the range" in str(caught[0].message)
    assert len(caught) == 1
    assert caught[0].filename == __file__


@pytest.mark.parametrize("doors", [DOORS, IN_L2], ids=["half", "l2"])
def test_other_radii_are_nobodys_business(doors: dict[str, Callable[[float], object]]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for door in doors.values():
            door(8 if doors is IN_L2 else 0.5)


@pytest.mark.parametrize(
    ("eps", "bounds", "message"),
    [
        (300.0, (0.0, 255.0), r"at most 255 in linf, the range of bounds \(0\.0, 255\.0\), got 300$"),
        (8.0, (-1.0, 1.0), r"at most 2 in linf, .* got 8; did you mean 8/255 of 2\?"),
        (1000.0, (0.0, 1.0), r"got 1000$"),
    ],
)
def test_the_hint_fits_the_range(eps: float, bounds: tuple[float, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_radius("eps", eps, "linf", bounds)


def test_images_of_another_range_have_other_radii() -> None:
    fairtat.fast_pgd(MODEL, 255 * X, Y, eps=8, bounds=(0, 255), **QUICK)
    fairtat.FairTAT(4, 8, bounds=(0, 255))
    fairtat.fast_pgd(MODEL, X, Y, eps=8, bounds=(-float("inf"), float("inf")), **QUICK)
