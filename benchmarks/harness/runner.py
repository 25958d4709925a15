"""Runs a case: makes the contestants, proves that they agree, and times them interleaved.

Absolute times drift between processes and minutes, ratios within a round do not.

On a GPU these are CUDA events around replays of CUDA graphs, over inputs that the L2 cache has forgotten.
"""

from __future__ import annotations

import fnmatch
import gc
import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch

from harness.case import Benchmark, Case, Contestant, Entrant, Settings, Unavailable, Verify
from harness.equality import Mismatch

T = TypeVar("T")
Sample = Callable[[Callable[[], object], int], float]  # (run, calls) -> seconds a call

WARM_BELOW = 0.05  # seconds: beyond it, what a neighbor left in the caches does not count
WARM_UP = 3  # calls before calibration or capture: allocators, caches and thread pools settle
CALLS = 200  # in one graph: enough that the start of a replay does not count
LARGE, CALLS_OF_LARGE = 64 << 20, 10  # bytes moved: what takes long even when called once
COLD = 2.5  # times the L2 cache: what the inputs of a rotation add up to


def spread(values: Sequence[float]) -> dict[str, float]:
    """The median with its quartiles, to five digits."""
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {name: float(f"{value:.5g}") for name, value in zip(("q1", "median", "q3"), quartiles, strict=True)}


@dataclass(frozen=True)
class Measurement:
    """Seconds for the whole of the work, by contestant and round."""

    seconds: dict[str, list[float]]
    calls: dict[str, int]  # calls behind each of those figures

    def row(self, name: str, baseline: str) -> dict[str, Any]:
        """A contestant's times, and how many times as long as the baseline it takes within a round."""
        ours, theirs = self.seconds[name], self.seconds[baseline]
        ratio = spread([a / b for a, b in zip(ours, theirs, strict=True)])
        return {"seconds": spread(ours), "ratio": ratio, "calls": self.calls[name]}


@dataclass(frozen=True)
class Effort:
    """How long to measure a case."""

    budget: float  # seconds
    min_rounds: int  # whatever they cost
    max_rounds: int = 200
    sample_seconds: float = 1e-3  # a fast contestant is called so often that a sample lasts about this long


QUICK = Effort(0.0, 2, 2, 0.0)  # does it run at all?


def run_case(
    benchmark: Benchmark[T], case: Case[T], settings: Settings, effort: Effort, skip: Sequence[str] = ()
) -> tuple[dict[str, Any], Measurement]:
    """One case as a JSON object, and the rounds behind it.

    A contestant that fails or computes something else is not timed, and its row says why; the baseline may not.
    """
    torch.compiler.reset()  # each case compiles for itself, and must not run into another's recompilation limit
    first = case.inputs(settings, 0)
    moved = None if benchmark.bytes_moved is None else benchmark.bytes_moved(first)
    sets = [first]
    if settings.device == "cuda":
        sets += [case.inputs(settings, k) for k in range(1, rotation_size(moved, settings.place, case.cold))]
    verify = benchmark.verify(first)

    def build(contestant: Contestant[T]) -> Entrant:
        made = [contestant.make(one) for one in sets]
        graph = settings.place == "cuda" and contestant.graph
        return in_turn(made, moved, graph=graph) if graph or len(made) > 1 else made[0]

    rows: list[dict[str, Any]] = []
    entrants: dict[str, Entrant] = {}
    for contestant in benchmark.contestants:
        if settings.device not in contestant.on or not contestant.when(settings, first):
            continue
        if any(fnmatch.fnmatchcase(contestant.name, pattern) for pattern in skip):
            continue
        rows.append({"name": contestant.name, "role": contestant.role})
        enter(rows[-1], entrants, partial(build, contestant), verify)
        if benchmark.memory and contestant.name in entrants:
            rows[-1]["peak_bytes"] = peak_bytes(entrants[contestant.name].run, settings.place)
    baseline = benchmark.baseline[settings.device]
    if baseline not in entrants:
        row = next((row for row in rows if row["name"] == baseline), {})
        why = row.get("failed") or row.get("missing") or "drop the --skip that matches it"
        raise RuntimeError(f"{case.name}: the baseline {baseline!r} must take part: {why}")
    timed = measure(entrants, effort, clock(settings))
    for row in rows:
        if row["name"] in entrants:
            row |= timed.row(row["name"], baseline)
            if moved is not None:
                row["gb_per_s"] = round(moved / row["seconds"]["median"] / 1e9, 2)
    result: dict[str, Any] = {
        "name": case.name,
        "headline": case.headline,
        "baseline": baseline,
        "equality": benchmark.rule if isinstance(benchmark.rule, str) else benchmark.rule(first),
        "rounds": len(timed.seconds[baseline]),
        "contestants": rows,
    }
    return result | ({} if moved is None else {"bytes_moved": moved}), timed


def enter(row: dict[str, Any], entrants: dict[str, Entrant], make: Callable[[], Entrant], verify: Verify) -> None:
    """Make a contestant and judge its answer; ``row`` gets what was found, ``entrants`` those to be timed."""
    name = row["name"]
    try:
        entrant = make()
        if entrant.outcome is not None:
            row |= verify(name, entrant.outcome())
        entrants[name] = entrant
    except ModuleNotFoundError as error:
        row["missing"] = f"not installed: {error.name}"
    except Unavailable as error:
        row["missing"] = str(error)
    except Mismatch as error:
        row["failed"] = f"does not compute the same thing: {error}"
    except Exception as error:  # whatever a contestant's library or a compiler may raise
        row["failed"] = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def failures(case: Mapping[str, Any]) -> list[str]:
    """Which contestants failed or disagreed."""
    rows = case.get("contestants", ())
    return [f"{case['name']}: {row['name']}: {row['failed']}" for row in rows if "failed" in row]


def measure(entrants: Mapping[str, Entrant], effort: Effort, sample: Sample | None = None) -> Measurement:
    """Time every contestant once a round, in rotating order, until the budget is spent.

    One more call, untimed, goes ahead of a sample: what is timed is a loop that runs, not the caches that a neighbor
    left behind. ``sample`` is the clock: the host's, unless another is given.
    """
    runs = {name: entrant.run for name, entrant in entrants.items()}
    names = list(runs)
    sample = sample or wall_clock
    calls = {name: _calls_for(runs[name], effort.sample_seconds, sample) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    was_collecting = gc.isenabled()
    gc.collect()
    gc.disable()  # a collection would be charged to the contestant that runs when it is due
    try:
        begin = time.perf_counter()
        for number in range(effort.max_rounds):
            if number >= effort.min_rounds and time.perf_counter() - begin > effort.budget:
                break
            shift = number % len(names)
            order = names[shift:] + names[:shift]
            # Backwards in every other round, so that none always follows the same neighbor's cache.
            for name in reversed(order) if number % 2 else order:
                if calls[name] > 1 or (seconds[name] and seconds[name][-1] < WARM_BELOW):
                    runs[name]()
                seconds[name].append(sample(runs[name], calls[name]))
    finally:
        if was_collecting:
            gc.enable()
    return Measurement({name: [s / entrants[name].share for s in taken] for name, taken in seconds.items()}, calls)


def _calls_for(run: Callable[[], object], sample_seconds: float, sample: Sample) -> int:
    """Calls that take about ``sample_seconds``, found by doubling after a warm-up; 1 for what takes longer."""
    if sample(run, 1) >= sample_seconds:
        return 1
    sample(run, WARM_UP)
    calls = 1
    while (taken := sample(run, calls) * calls) < sample_seconds / 2:
        calls *= 2
    return max(1, round(calls * sample_seconds / taken))


def clock(settings: Settings) -> Sample:
    if settings.place == "cuda":
        return event_clock
    return processor_clock if settings.processor_time else wall_clock


def wall_clock(run: Callable[[], object], calls: int) -> float:
    return host_clock(time.perf_counter, run, calls)


def processor_clock(run: Callable[[], object], calls: int) -> float:
    return host_clock(time.process_time, run, calls)


def host_clock(now: Callable[[], float], run: Callable[[], object], calls: int) -> float:
    begin = now()
    for _ in range(calls):
        run()
    return (now() - begin) / calls


def peak_bytes(run: Callable[[], object], device: str) -> int:
    """The most that PyTorch's allocator holds at a time for a call, beyond what it held before."""
    most: int
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        most = torch.cuda.max_memory_allocated() - before
        return most
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    results = None if profile.profiler is None else profile.profiler.kineto_results
    assert results is not None
    events = results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    most = max(itertools.accumulate((size for _, size in changes), initial=0))
    return most


def event_clock(run: Callable[[], object], calls: int) -> float:
    """Seconds a call by CUDA events, from an idle device to the last kernel's end."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in range(calls):
        run()
    end.record()
    end.synchronize()
    milliseconds: float = begin.elapsed_time(end)
    return milliseconds * 1e-3 / calls


def in_turn(entrants: Sequence[Entrant], bytes_moved: int | None, *, graph: bool = False) -> Entrant:
    """Each of them once, or many calls in one CUDA graph, in rotation: they differ in their inputs alone.

    The answer is the first one's.
    """
    in_graph = CALLS if bytes_moved is None or bytes_moved < LARGE else CALLS_OF_LARGE
    calls = in_graph if graph else len(entrants)
    turns = [entrants[k % len(entrants)].run for k in range(calls)]

    def run_all() -> None:
        for turn in turns:
            turn()

    run = captured(run_all) if graph else run_all
    return Entrant(run, entrants[0].outcome, share=calls * entrants[0].share)


def captured(run: Callable[[], object]) -> Callable[[], object]:
    """``run`` as a CUDA graph, after a warm-up on a stream of its own."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = run()  # what the graph writes must not be handed to others

    def replay() -> object:
        graph.replay()
        return kept

    return replay


def rotation_size(bytes_moved: int | None, device: str, cold: bool | None) -> int:
    """How many inputs it takes that none is left in the L2 cache when its turn comes again."""
    if bytes_moved is None or not (bytes_moved >= 8 << 20 if cold is None else cold):
        return 1
    if device != "cuda":
        return 2  # a rehearsal
    cache: int = torch.cuda.get_device_properties("cuda").L2_cache_size
    return max(1, round(COLD * cache / bytes_moved) + 1)
