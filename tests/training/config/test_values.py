"""Numbers as written: fractions are exact, remembered and never evaluated as code."""

from __future__ import annotations

import copy
import math

import pytest

from fairtat.training.config import Number


@pytest.mark.parametrize(
    ("text", "value"),
    [("8/255", 8 / 255), (" 8 / 255 ", 8 / 255), ("-1/4", -0.25), ("5e-4", 5e-4), ("3", 3.0), ("0.1", 0.1)],
)
def test_values(text: str, value: float) -> None:
    assert Number(text) == value


def test_a_fraction_keeps_its_text_and_a_number_does_not_gain_one() -> None:
    assert str(Number("8/255")) == "8/255"
    assert Number("8/255").plain() == "8/255"
    assert Number(copy.deepcopy(Number("8/255"))).plain() == "8/255"
    assert str(Number(0.1)) == "0.1"
    assert type(Number("0.1").plain()) is float
    assert math.isclose(Number("8/255") * 255, 8)


@pytest.mark.parametrize("text", ["", "eps", "8/0", "8//255", "1/2/3", "__import__('os')", "2**3", "8/255.0x"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a number or a fraction such as 8/255, got"):
        Number(text)
