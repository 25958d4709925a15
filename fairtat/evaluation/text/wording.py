"""How sentences and the page write numbers."""

from __future__ import annotations

import math

MISSING = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share in percent without its sign; a dash for none."""
    return MISSING if share is None or math.isnan(share) else f"{100 * share:.{digits}f}"


def points(difference: float | None) -> str:
    """A difference of shares in signed percentage points, with a real minus sign; a dash for none."""
    if difference is None or math.isnan(difference):
        return MISSING
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", MINUS)


def between(interval: tuple[float, float]) -> str:
    """An interval of a difference: "[+1.2, +7.0]"."""
    return f"[{points(interval[0])}, {points(interval[1])}]"


def size(difference: float) -> str:
    """How far a share moved, whatever the direction."""
    return f"{100 * abs(difference):.1f}"


def called(name: str) -> str:
    """A class as a sentence can name it: "cat", but "class 3"."""
    return f"class {name}" if name.isdecimal() else name


def ascii_minus(text: str) -> str:
    """For terminals: a hyphen where the page has a minus sign."""
    return text.replace(MINUS, "-")


def plain_points(difference: float | None) -> str:
    """`points` for terminals."""
    return ascii_minus(points(difference))
