"""Real numbers as papers write them."""

from __future__ import annotations

from fractions import Fraction

__all__ = ["Number"]


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
