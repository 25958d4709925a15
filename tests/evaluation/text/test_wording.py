# ruff: noqa: RUF001 - the page's own minus signs and dashes
from __future__ import annotations

import math

from fairtat.evaluation.text.wording import ascii_minus, between, called, percent, points, size


def test_numbers_are_written_for_reading() -> None:
    assert (percent(0.2549), percent(1.0, 0), percent(None), percent(math.nan)) == ("25.5", "100", "–", "–")
    assert (points(0.041), points(-0.008), points(-0.0001), points(math.nan)) == ("+4.1", "−0.8", "0.0", "–")
    assert between((0.012, 0.07)) == "[+1.2, +7.0]"
    assert size(-0.123) == "12.3"
    assert ascii_minus(between((-0.012, 0.07))) == "[-1.2, +7.0]"


def test_a_class_that_is_a_number_is_called_a_class() -> None:
    assert (called("cat"), called("3"), called("3d printer")) == ("cat", "class 3", "3d printer")
