from __future__ import annotations

import gc
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from harness.case import Entrant, Settings
from harness.runner import (
    CALLS,
    CALLS_OF_LARGE,
    Effort,
    Measurement,
    captured,
    clock,
    event_clock,
    in_turn,
    measure,
    peak_bytes,
    rotation_size,
    spread,
    wall_clock,
)


def test_every_round_runs_everyone_once_and_starts_with_another() -> None:
    order: list[str] = []
    runs = {name: (lambda name=name: order.append(name)) for name in "abc"}
    timed = measure({name: Entrant(run) for name, run in runs.items()}, Effort(0.0, 6, 6, 0.0))
    # From the second round on, each is called once more, untimed, before its sample.
    first, later = order[-33:-30], order[-30:]
    assert later[::2] == later[1::2]
    rounds = ["".join(first), *("".join(later[i : i + 6 : 2]) for i in range(0, 30, 6))]
    assert rounds == ["abc", "acb", "cab", "cba", "bca", "bac"]
    assert {len(seconds) for seconds in timed.seconds.values()} == {6}
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
    monkeypatch.setattr("harness.runner.time", clock)
    runs = {"fast": Entrant(clock.takes(2.0**-20)), "slow": Entrant(clock.takes(2.0**-8))}
    timed = measure(runs, Effort(0.0, 2, 2, 2.0**-10))
    assert timed.calls == {"fast": 1024, "slow": 1}
    assert timed.seconds == {"fast": [2.0**-20] * 2, "slow": [2.0**-8] * 2}


def test_the_budget_ends_the_rounds() -> None:
    runs = {"a": Entrant(lambda: None)}
    assert len(measure(runs, Effort(0.0, 3, 50, 0.0)).seconds["a"]) == 3
    assert len(measure(runs, Effort(60.0, 3, 5, 0.0)).seconds["a"]) == 5


def test_the_ratio_is_taken_within_rounds() -> None:
    # The machine slows down tenfold halfway: times spread, ratios do not.
    timed = Measurement({"ours": [1.0, 1.0, 10.0, 10.0], "theirs": [3.0, 3.0, 30.0, 30.0]}, {"ours": 1, "theirs": 1})
    row = timed.row("theirs", "ours")
    assert row["ratio"] == {"q1": 3.0, "median": 3.0, "q3": 3.0}
    assert row["seconds"] == {"q1": 3.0, "median": 16.5, "q3": 30.0}


def test_quartiles_are_those_of_numpy() -> None:
    values = [5.0, 1.0, 3.0, 2.0, 4.5, 0.25]
    q1, median, q3 = np.quantile(values, (0.25, 0.5, 0.75))
    assert spread(values) == pytest.approx({"q1": q1, "median": median, "q3": q3}, rel=1e-4)
    assert spread([2.0]) == {"q1": 2.0, "median": 2.0, "q3": 2.0}


def test_garbage_collection_is_off_in_the_rounds_and_on_again_after_an_error() -> None:
    def fail() -> None:
        if not gc.isenabled():
            raise RuntimeError("in a round")

    assert gc.isenabled()
    with pytest.raises(RuntimeError, match="in a round"):
        measure({"a": Entrant(fail)}, Effort(0.0, 1, 1, 0.0))
    assert gc.isenabled()


def test_a_rotation_runs_every_entrant_and_answers_as_the_first() -> None:
    ran: list[str] = []
    entrants = [Entrant(lambda n=n: ran.append(n), lambda n=n: {"name": torch.tensor(ord(n))}) for n in "abc"]
    turns = in_turn(entrants, None)
    turns.run()
    assert ran == ["a", "b", "c"]
    assert turns.share == 3
    assert turns.outcome is not None
    assert chr(int(turns.outcome()["name"])) == "a"


def test_a_graph_holds_many_calls_in_rotation_fewer_of_what_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.runner.captured", lambda run: run)
    ran: list[int] = []
    entrants = [Entrant(lambda n=n: ran.append(n)) for n in range(3)]
    assert in_turn(entrants, None, graph=True).share == in_turn(entrants, 1 << 20, graph=True).share == CALLS
    large = in_turn(entrants, 1 << 30, graph=True)
    large.run()
    assert large.share == CALLS_OF_LARGE
    assert ran == [k % 3 for k in range(CALLS_OF_LARGE)]


def test_cold_inputs_are_more_than_the_cache_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        L2_cache_size = 50 << 20

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    each = 6 << 20
    assert rotation_size(each, "cuda", cold=True) * each > 2 * Properties.L2_cache_size
    assert rotation_size(1 << 30, "cuda", cold=True) == 1
    assert rotation_size(each, "cuda", cold=False) == rotation_size(each, "cuda", cold=None) == 1
    assert rotation_size(8 << 20, "cuda", cold=None) > 1
    assert rotation_size(None, "cuda", cold=True) == 1
    assert rotation_size(each, "cpu", cold=True) == 2


def test_each_device_has_its_clock() -> None:
    assert clock(Settings()) is wall_clock
    assert clock(Settings("cuda")) is event_clock


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_events_measure_the_kernels_and_not_their_launch() -> None:
    x = torch.rand(64 << 20, device="cuda")
    y = torch.empty_like(x)
    seconds = event_clock(captured(lambda: y.copy_(x)), 3)
    assert torch.equal(x, y)
    assert 2 * x.numel() * 4 / seconds < 20e12  # bytes a second: faster than any memory would mean nothing ran


@pytest.mark.parametrize("processor_time", [False, True])
def test_the_clock_that_was_asked_for_tells_the_time(monkeypatch: pytest.MonkeyPatch, processor_time: bool) -> None:
    monkeypatch.setattr(time, "perf_counter", iter([10.0, 16.0]).__next__)
    monkeypatch.setattr(time, "process_time", iter([5.0, 6.0]).__next__)
    assert clock(Settings(processor_time=processor_time))(lambda: None, 2) == (0.5 if processor_time else 3.0)


@pytest.mark.parametrize(("held", "most"), [(0, 1), (1, 2), (3, 4)])
def test_the_peak_is_what_is_held_at_a_time(held: int, most: int) -> None:
    def run() -> None:
        kept = [torch.empty(1 << 20, dtype=torch.uint8) for _ in range(held)]
        for _ in range(4):
            kept.append(torch.empty(1 << 20, dtype=torch.uint8))
            kept.pop()

    assert peak_bytes(run, "cpu") == most << 20
