"""Checks of plain Python settings: each error names the argument, the value given and what was expected."""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection, Mapping


def real(argument: str, value: object, *, low: float = -math.inf, high: float = math.inf) -> float:
    """`value` as a finite float within [low, high]."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{argument} must be a real number, got {value!r}")
    number = float(value)
    if not math.isfinite(number) or not low <= number <= high:
        raise ValueError(f"{argument} must be finite{_interval(low, high)}, got {value!r}")
    return number


def integer(argument: str, value: object, *, low: float = -math.inf, high: float = math.inf) -> int:
    """`value` as an int within [low, high]."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{argument} must be an int, got {value!r}")
    number = int(value)
    if not low <= number <= high:
        raise ValueError(f"{argument} must be an int{_interval(low, high)}, got {value!r}")
    return number


def state_keys(owner: str, state: object, expected: Collection[str]) -> Mapping[str, object]:
    """`state` as a mapping with exactly the `expected` keys."""
    if not isinstance(state, Mapping):
        raise TypeError(f"{owner} state must be a mapping made by state_dict(), got {type(state).__name__}")
    missing = sorted(set(expected) - set(state))
    unexpected = sorted(map(str, set(state) - set(expected)))
    if missing or unexpected:
        raise ValueError(
            f"{owner} state must have the keys {sorted(expected)}; missing {missing}, unexpected {unexpected}"
        )
    return state


def _interval(low: float, high: float) -> str:
    bounds = [f">= {low}"] * math.isfinite(low) + [f"<= {high}"] * math.isfinite(high)
    return f" and {' and '.join(bounds)}" if bounds else ""
