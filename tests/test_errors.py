"""Suggestions in error messages."""

from __future__ import annotations

from fairtat.errors import did_you_mean, starts_at_1


def test_the_nearest_name_or_all_of_them() -> None:
    names = ["random", "cfps", "confusion"]
    assert did_you_mean("cfp", names) == "; did you mean 'cfps'?"
    assert did_you_mean("confuson", iter(names)) == "; did you mean 'confusion'?"
    assert did_you_mean("zzz", names) == "; valid: cfps, confusion, random"


def test_labels_that_may_start_at_1_are_told_from_others() -> None:
    hint = "; if the labels start at 1, subtract 1"
    assert starts_at_1(1, 10, 10) == starts_at_1(3, 10, 10) == hint  # a batch need not hold every class
    assert starts_at_1(0, 10, 10) == starts_at_1(1, 11, 10) == ""
