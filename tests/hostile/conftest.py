"""Fixtures of the tests of damaged, foreign and hostile files."""

from tiny_run import assert_same_run, metrics_of, tiny

__all__ = ["assert_same_run", "metrics_of", "tiny"]
