"""Fixtures of the tests of configurations."""

from tiny_run import assert_same_run

__all__ = ["assert_same_run"]
