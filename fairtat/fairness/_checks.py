"""Checks of plain Python settings: each error names the argument, the value given and what was expected."""

from __future__ import annotations

import math
import numbers
from collections.abc import Collection, Mapping, Sequence


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


def boolean(argument: str, value: object) -> bool:
    """`value` if it is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{argument} must be true or false, got {value!r}")
    return value


def bounds(
    argument: str, value: object, *, low: float = -math.inf, expected: str = "a pair (low, high)"
) -> tuple[float, float]:
    """`value` as a pair of finite floats, low <= first <= second."""
    if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
        raise TypeError(f"{argument} must be {expected}, got {value!r}")
    first, second = (real(argument, bound, low=low) for bound in value)
    if first > second:
        raise ValueError(f"{argument} must be (low, high) with low <= high, got {value!r}")
    return first, second


def positive_bounds(argument: str, value: object) -> tuple[float, float]:
    """`value` as a pair of finite floats, 0 < first <= second."""
    first, second = bounds(argument, value)
    if first <= 0:
        raise ValueError(f"{argument} must be (low, high) with low > 0, got {value!r}")
    return first, second


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
