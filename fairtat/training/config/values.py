"""The values of a configuration: numbers as papers write them, and fields that know what they may hold.

``lr: Number = positive(0.1)`` is a number above 0, and 0.1 by default.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from fractions import Fraction
from typing import Any

from fairtat.errors import UserError, nearest
from fairtat.extension import names_code

__all__ = [
    "Number",
    "at_least",
    "below_1",
    "check_ranges",
    "choice_or_code",
    "not_negative",
    "positive",
    "random_seed",
    "share",
    "shares",
    "unit",
]

_KEY = "range"


class Number(float):
    """A float that may be written as a fraction and remembers how: ``Number("8/255")`` prints as ``8/255``.

    It also takes ``"5e-4"``, which YAML 1.1 reads as a string because it has no dot.

    Raises:
        ValueError: not a number or a fraction of whole numbers.
    """

    text: str | None  # the fraction as written; None for plain numbers

    def __new__(cls, value: float | str = 0.0) -> Number:
        text = str(value).replace(" ", "") if isinstance(value, str) else None
        try:
            # Fraction parses a fixed grammar of digits: nothing in a configuration is ever evaluated.
            number = super().__new__(cls, Fraction(text) if text and "/" in text else value)
        except (ValueError, ZeroDivisionError, OverflowError):
            raise ValueError(f"expected a number or a fraction such as 8/255, got {value!r}") from None
        number.text = text if text and "/" in text else getattr(value, "text", None)
        return number

    def __str__(self) -> str:
        return self.text or float.__repr__(self)

    def plain(self) -> float | str:
        """What YAML and JSON hold: the fraction as a string, or a plain float."""
        return self.text or float(self)


@dataclass(frozen=True)
class Range:
    """The values of a field. None is always allowed: the field's type says whether it may be None."""

    holds: Callable[[Any], bool]
    expected: str
    choices: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)

    def check(self, key: str, value: Any) -> None:
        if value is None or self.holds(value):
            return
        if self.renamed and value in self.renamed:
            raise UserError(f"{key} is {value!r}; expected {self.renamed[value]}")
        near = nearest(value, self.choices) if self.choices else None
        hint = f"; did you mean {near!r}?" if near else ""
        raise UserError(f"{key} is {repr(value) if self.choices else value}; expected {self.expected}{hint}")


_SHARE = Range(lambda v: 0 < v < 1, "a share above 0 and below 1")
_SHARES = Range(lambda v: all(0 < m < 1 for m in v), "shares of the epochs, above 0 and below 1")
_POSITIVE = Range(lambda v: 0 < v < math.inf, "a finite number above 0")
_NOT_NEGATIVE = Range(lambda v: 0 <= v < math.inf, "a finite number of 0 or more")
_BELOW_1 = Range(lambda v: 0 <= v < 1, "0 or more and below 1")
_UNIT = Range(lambda v: 0 <= v <= 1, "a number in [0, 1]")
_SEED = Range(lambda v: -(2**63) <= v < 2**64, "a whole number in [-2**63, 2**64)")


def share(default: float) -> Any:
    """A number above 0 and below 1."""
    return _number(default, _SHARE)


def shares(default: Sequence[float]) -> Any:
    """Several of them."""
    return field(default_factory=lambda: [Number(value) for value in default], metadata={_KEY: _SHARES})


def positive(default: float | str | None) -> Any:
    """A finite number above 0."""
    return _number(default, _POSITIVE)


def not_negative(default: float | str | None) -> Any:
    """A finite number of 0 or more."""
    return _number(default, _NOT_NEGATIVE)


def below_1(default: float) -> Any:
    """A number of 0 or more and below 1."""
    return _number(default, _BELOW_1)


def unit(default: float | str) -> Any:
    """A number from 0 to 1."""
    return _number(default, _UNIT)


def at_least(low: int, default: int | None, *, because: str = "") -> Any:
    """A whole number of ``low`` or more."""
    expected = f"{low} or more" + (f" ({because})" if because else "")
    return field(default=default, metadata={_KEY: Range(lambda v: v >= low, expected)})


def random_seed(default: int) -> Any:
    """A whole number of 64 bits, signed or unsigned."""
    return field(default=default, metadata={_KEY: _SEED})


def choice_or_code(default: str, choices: Sequence[str], *, renamed: Mapping[str, str] | None = None) -> Any:
    """One of the names, or a ``module:function`` of the user's own; ``renamed``: what to write for a former name."""
    expected = f"one of {', '.join(choices)}, or module:function"
    known = Range(lambda v: v in choices or names_code(v), expected, tuple(choices), renamed or {})
    return field(default=default, metadata={_KEY: known})


def _number(default: float | str | None, values: Range) -> Any:
    return field(default=None if default is None else Number(default), metadata={_KEY: values})


def check_ranges(config: Any, prefix: str = "") -> None:
    """Check each field of ``config`` and of its sections, in order.

    Raises:
        UserError: a value out of range; the message names the key as YAML and the command line do.
    """
    for item in fields(config):
        key, value = prefix + item.name, getattr(config, item.name)
        if is_dataclass(value):
            check_ranges(value, f"{key}.")
        elif _KEY in item.metadata:
            item.metadata[_KEY].check(key, value)
