from __future__ import annotations

import gc
from collections.abc import Callable
from itertools import pairwise

import pytest
from harness.timing import Measurement, Spread, measure


def test_every_round_runs_everyone_once_and_starts_with_another() -> None:
    order: list[str] = []
    runs = {name: (lambda name=name: order.append(name)) for name in "abc"}
    timed = measure(runs, budget=0.0, min_rounds=6, max_rounds=6, sample_seconds=0.0)
    # From the second round on, each is called once more, untimed, before its sample.
    first, later = order[-33:-30], order[-30:]
    assert later[::2] == later[1::2]
    rounds = ["".join(first), *("".join(later[i : i + 6 : 2]) for i in range(0, 30, 6))]
    assert rounds == ["abc", "acb", "cab", "cba", "bca", "bac"]
    assert timed.rounds == 6
    assert timed.calls == {"a": 1, "b": 1, "c": 1}


class Clock:
    """A clock that only the contestants move."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def takes(self, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.now += seconds

        return run


def test_a_fast_contestant_is_called_many_times_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("harness.timing.time", clock)
    runs = {"fast": clock.takes(2.0**-20), "slow": clock.takes(2.0**-8)}
    timed = measure(runs, budget=0.0, min_rounds=2, max_rounds=2, sample_seconds=2.0**-10)
    assert timed.calls == {"fast": 1024, "slow": 1}
    assert timed.seconds == {"fast": [2.0**-20] * 2, "slow": [2.0**-8] * 2}


def test_the_budget_ends_the_rounds() -> None:
    timed = measure({"a": lambda: None}, budget=0.0, min_rounds=3, max_rounds=50, sample_seconds=0.0)
    assert timed.rounds == 3
    timed = measure({"a": lambda: None}, budget=60.0, min_rounds=3, max_rounds=5, sample_seconds=0.0)
    assert timed.rounds == 5


def test_the_ratio_is_taken_within_rounds() -> None:
    # The machine slows down tenfold halfway: times spread, ratios do not.
    timed = Measurement({"ours": [1.0, 1.0, 10.0, 10.0], "theirs": [3.0, 3.0, 30.0, 30.0]}, {"ours": 1, "theirs": 1})
    assert timed.ratio("theirs", "ours") == Spread(3.0, 3.0, 3.0)
    assert timed.spread("ours") == Spread(5.5, 1.0, 10.0)


def test_quartiles_are_ordered() -> None:
    spread = Spread.of([5.0, 1.0, 3.0, 2.0, 4.0])
    assert spread == Spread(3.0, 2.0, 4.0)
    assert all(a < b for a, b in pairwise((spread.q1, spread.median, spread.q3)))


def test_garbage_collection_is_off_in_the_rounds_and_on_again_after_an_error() -> None:
    def fail() -> None:
        if not gc.isenabled():
            raise RuntimeError("in a round")

    assert gc.isenabled()
    with pytest.raises(RuntimeError, match="in a round"):
        measure({"a": fail}, budget=0.0, min_rounds=1, max_rounds=1, sample_seconds=0.0)
    assert gc.isenabled()
