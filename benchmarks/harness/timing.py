"""Interleaved timing: absolute times drift between processes and minutes, ratios within a round do not."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Sample = Callable[[Callable[[], object], int], float]  # (run, calls) -> seconds a call

WARM_BELOW = 0.05  # seconds: beyond it, what a neighbour left in the caches does not count
WARM_UP = 3  # calls before calibration, if they are short: allocators, caches and thread pools settle


@dataclass(frozen=True)
class Spread:
    """A median with its quartiles."""

    median: float
    q1: float
    q3: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        q1, median, q3 = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, q1, q3)

    def rounded(self) -> dict[str, float]:
        return {name: float(f"{getattr(self, name):.5g}") for name in ("median", "q1", "q3")}


@dataclass(frozen=True)
class Measurement:
    """Seconds a call, by contestant and round."""

    seconds: dict[str, list[float]]
    calls: dict[str, int]  # calls behind each of those figures

    @property
    def rounds(self) -> int:
        return len(next(iter(self.seconds.values())))

    def per(self, share: Mapping[str, float]) -> Measurement:
        """The same for the whole of the work, of which one call does a share."""
        return Measurement(
            {name: [s / share[name] for s in values] for name, values in self.seconds.items()}, self.calls
        )

    def spread(self, name: str) -> Spread:
        return Spread.of(self.seconds[name])

    def ratio(self, name: str, baseline: str) -> Spread:
        """How many times as long ``name`` takes as ``baseline``: the spread of the rounds' own ratios."""
        pairs = zip(self.seconds[name], self.seconds[baseline], strict=True)
        return Spread.of([ours / theirs for ours, theirs in pairs])


def measure(
    runs: Mapping[str, Callable[[], object]],
    *,
    budget: float,
    min_rounds: int = 5,
    max_rounds: int = 200,
    sample_seconds: float = 1e-3,
    sample: Sample | None = None,
) -> Measurement:
    """Time every contestant once a round, in rotating order, until ``budget`` seconds are spent.

    A fast contestant is called several times a sample, so that every sample lasts about ``sample_seconds``;
    the clock's resolution and the loop's own cost then do not count. One more call, untimed, goes ahead of a sample:
    what is timed is a loop that runs, not the caches that a neighbour left behind. At least ``min_rounds`` rounds are
    run whatever they cost, at most ``max_rounds``. ``sample`` is the clock: the host's, unless another is given.
    """
    names = list(runs)
    sample = sample or wall_clock
    calls = {name: _calls_for(runs[name], sample_seconds, sample) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    was_collecting = gc.isenabled()
    gc.collect()
    gc.disable()  # a collection would be charged to whoever runs when it is due
    try:
        begin = time.perf_counter()
        for number in range(max_rounds):
            if number >= min_rounds and time.perf_counter() - begin > budget:
                break
            shift = number % len(names)
            order = names[shift:] + names[:shift]
            # Backwards in every other round, so that nobody always follows the same neighbour's cache.
            for name in reversed(order) if number % 2 else order:
                if calls[name] > 1 or (seconds[name] and seconds[name][-1] < WARM_BELOW):
                    runs[name]()
                seconds[name].append(sample(runs[name], calls[name]))
    finally:
        if was_collecting:
            gc.enable()
    return Measurement(seconds, calls)


def wall_clock(run: Callable[[], object], calls: int) -> float:
    begin = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - begin) / calls


def _calls_for(run: Callable[[], object], sample_seconds: float, sample: Sample) -> int:
    """Calls that take about ``sample_seconds``, found by doubling after a warm-up; 1 for what takes longer."""
    if sample(run, 1) >= sample_seconds:
        return 1
    sample(run, WARM_UP)
    calls = 1
    while (taken := sample(run, calls) * calls) < sample_seconds / 2:
        calls *= 2
    return max(1, round(calls * sample_seconds / taken))
