"""Suggestions in error messages."""

from __future__ import annotations

from fairtat.errors import did_you_mean


def test_the_nearest_name_or_all_of_them() -> None:
    names = ["random", "cfps", "confusion"]
    assert did_you_mean("cfp", names) == "; did you mean 'cfps'?"
    assert did_you_mean("confuson", iter(names)) == "; did you mean 'confusion'?"
    assert did_you_mean("zzz", names) == "; valid: cfps, confusion, random"
