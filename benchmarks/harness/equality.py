"""Equality comes first: a benchmark times nothing before its contestants agree."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from harness.case import Outcome, Verify


class Mismatch(Exception):
    """A contestant does not compute what the case asks for; the message says where."""


def equal_to(expected: Outcome) -> Verify:
    """Equal to the last bit in everything that a contestant returns (0 and -0 count as equal)."""

    def verify(contestant: str, outcome: Outcome) -> dict[str, float]:
        for name, (value, wanted) in _pairs(expected, outcome).items():
            differing = int((value != wanted).sum())
            if differing:
                raise Mismatch(f"{differing} of {wanted.numel()} elements of {name} differ")
        return {}

    return verify


def close_to(expected: Outcome, tolerance: Mapping[str, float]) -> Verify:
    """Within ``tolerance[name] * max(1, |expected|)``; names that have none must be equal."""

    def verify(contestant: str, outcome: Outcome) -> dict[str, float]:
        errors: dict[str, float] = {}
        for name, (value, wanted) in _pairs(expected, outcome).items():
            error = (value.double() - wanted.double()).abs() / wanted.double().abs().clamp_min(1.0)
            worst = float(error.max()) if error.numel() else 0.0
            allowed = tolerance.get(name, 0.0)
            if not worst <= allowed:
                raise Mismatch(f"{name} is off by {worst:.3g}, more than {allowed:.3g}")
            if name in tolerance:
                errors[f"error_{name}"] = worst
        return errors

    return verify


def _pairs(expected: Outcome, outcome: Outcome) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """What came beside what was wanted. A contestant may compute less (a peer without losses), never nothing."""
    if not outcome:
        raise Mismatch("there is no result to compare")
    pairs = {}
    for name, value in outcome.items():
        wanted = expected[name]
        if value.shape != wanted.shape:
            raise Mismatch(f"{name} has shape {tuple(value.shape)}, expected {tuple(wanted.shape)}")
        pairs[name] = (value, wanted)
    return pairs
