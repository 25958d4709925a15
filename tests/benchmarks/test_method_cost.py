"""The cost of methods: every method of the table runs, and what a method may not do without is what it does."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import method_cost
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def costs() -> dict[str, Any]:
    """On 180 digits and a CNN of four channels."""
    return method_cost.measure({"name": "digits_cnn", "options": {"width": 4}}, rounds=1, train=0.1)


def numbers(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for item in value.values():
            yield from numbers(item)
    elif not isinstance(value, str):
        yield value


def test_every_method_has_figures(costs: dict[str, Any]) -> None:
    assert set(costs["over_at"]) == set(method_cost.METHODS)
    found = list(numbers(costs))
    assert len(found) == 2 * len(method_cost.METHODS) + 2 * len(method_cost.DISTILLING) + 2 + 1
    assert all(math.isfinite(number) and number > 0 for number in found)


def test_the_operations_are_those_of_the_passes(costs: dict[str, Any]) -> None:
    operations = {name: cost["operations"] for name, cost in costs["over_at"].items()}
    # A distilling method makes the passes of its base and the teacher's, whatever it counts on the way of the attack.
    assert {cost["operations"] for cost in costs["over_base_and_teacher"].values()} == {1.0}
    assert costs["trix_over_trades"]["operations"] == 1.0
    assert operations["FAAL"] == operations["FAIR-TAT"] == operations["AT"] == 1.0
    assert 1 < operations["Fair-ARD"] == operations["ARD"] < operations["TRADES"] < operations["BAT"]
    assert operations["N-FGSM"] < operations["N-FGSM with GradAlign"] < 1
