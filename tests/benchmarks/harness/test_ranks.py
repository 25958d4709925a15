"""Ranks of the scaling benchmark: each call is an epoch of all of them, and one that dies ends the wait."""

from __future__ import annotations

import multiprocessing

import pytest
from harness.ranks import epochs

pytestmark = pytest.mark.slow


def test_all_ranks_take_part_and_a_lost_one_is_an_error() -> None:
    before = set(multiprocessing.active_children())
    epoch = epochs("digits", "digits_cnn", 2)
    ranks = set(multiprocessing.active_children()) - before
    assert len(ranks) == 2
    epoch()
    assert all(rank.is_alive() for rank in ranks)
    lost, other = ranks
    lost.kill()
    lost.join()
    with pytest.raises((EOFError, OSError)):
        epoch()
    other.kill()  # which waits to be asked, or has lost the other one
    other.join()
