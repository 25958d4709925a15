"""Equality comes first: a contestant that does not compute the same thing is not timed."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from harness.case import Outcome, Verify


class Mismatch(Exception):
    """A contestant does not compute what the case asks for; the message says where."""


def equal_to(expected: Outcome) -> Verify:
    """Equal to the last bit in everything that a contestant returns (0 and -0 count as equal)."""
    return close_to(expected, {})


def close_to(expected: Outcome, tolerance: Mapping[str, float]) -> Verify:
    """Within ``tolerance[name] * max(1, |expected|)``; names that have none must be equal.

    A contestant may compute less (a peer without losses), never nothing.
    """

    def verify(contestant: str, outcome: Outcome) -> dict[str, float]:
        if not outcome:
            raise Mismatch("there is no result to compare")
        errors: dict[str, float] = {}
        for name, value in outcome.items():
            wanted = expected[name]
            if value.shape != wanted.shape:
                raise Mismatch(f"{name} has shape {tuple(value.shape)}, expected {tuple(wanted.shape)}")
            if name not in tolerance:
                if differing := int((value != wanted).sum()):
                    raise Mismatch(f"{differing} of {wanted.numel()} elements of {name} differ")
                continue
            error = (value.double() - wanted.double()).abs() / wanted.double().abs().clamp_min(1.0)
            worst = float(error.max()) if error.numel() else 0.0
            if not worst <= tolerance[name]:
                raise Mismatch(f"{name} is off by {worst:.3g}, more than {tolerance[name]:.3g}")
            errors[f"error_{name}"] = worst
        return errors

    return verify


def in_ball(x_adv: Tensor, x: Tensor, eps: float, norm: str = "linf") -> None:
    """Raises Mismatch unless x_adv is in the ball around x and in [0, 1]."""
    length = (x_adv - x).flatten(1).norm(dim=1, p=float("inf") if norm == "linf" else 2.0)
    if float(length.max()) > eps + 1e-6 or float(x_adv.min()) < 0.0 or float(x_adv.max()) > 1.0:
        raise Mismatch("x_adv leaves the ball or the bounds")
