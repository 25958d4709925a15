"""Fixtures of the tests of training."""

from attack_fixtures import compiles
from tiny_run import assert_same_run, metrics_of, tiny

__all__ = ["assert_same_run", "compiles", "metrics_of", "tiny"]
