"""Fixtures of the tests of training."""

from tiny_run import assert_same_run, metrics_of, tiny

__all__ = ["assert_same_run", "metrics_of", "tiny"]
