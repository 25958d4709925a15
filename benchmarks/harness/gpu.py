"""Time and memory on a GPU: CUDA events around replays of CUDA graphs, and inputs that the L2 cache has forgotten.

Each helper also runs on a CPU, with plain calls, so that a GPU's benchmark can be rehearsed where there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from fairtat import backends
from harness.case import Contestant, Entrant, Settings, Unavailable
from harness.timing import Sample, wall_clock

CALLS = 200  # in one graph: enough that the start of a replay does not count
LARGE, CALLS_OF_LARGE = 64 << 20, 10  # bytes moved: what takes long by itself
WARM_UP = 3
COLD = 2.5  # times the L2 cache: what the inputs of a rotation add up to

T = TypeVar("T")


def clock(device: str) -> Sample:
    """The clock for work on this device."""
    return event_clock if device == "cuda" else wall_clock


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


def in_graph(entrants: Sequence[Entrant], device: str, calls: int = CALLS) -> Entrant:
    """``calls`` runs as one CUDA graph, taking the entrants in turn; its answer is the first one's.

    Entrants that differ in their inputs alone make a rotation. On a CPU it is a loop.
    """
    plain = in_turn(entrants, calls if device == "cuda" else len(entrants))
    return replace(plain, run=captured(plain.run, device))


def in_turn(entrants: Sequence[Entrant], calls: int) -> Entrant:
    """The same, launched one by one."""
    turns = [entrants[k % len(entrants)].run for k in range(calls)]

    def run_all() -> None:
        for turn in turns:
            turn()

    return Entrant(run_all, entrants[0].outcome, share=calls)


def calls_for(bytes_moved: int) -> int:
    """How many calls make one graph."""
    return CALLS if bytes_moved < LARGE else CALLS_OF_LARGE


def captured(run: Callable[[], object], device: str) -> Callable[[], object]:
    """``run`` as a CUDA graph, after a warm-up on a stream of its own; on a CPU ``run`` itself."""
    if device != "cuda":
        return run
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


def rotation(make: Callable[[int], T], bytes_each: int, *, settings: Settings, cold: bool = True) -> list[T]:
    """Enough inputs, made from seeds 0, 1, ..., that none is left in the L2 cache when its turn comes again."""
    if settings.device != "cuda":
        return [make(seed) for seed in range(2 if cold else 1)]
    cache: int = torch.cuda.get_device_properties("cuda").L2_cache_size
    return [make(seed) for seed in range(max(1, round(COLD * cache / bytes_each) + 1) if cold else 1)]


def kernel_names(settings: Settings) -> tuple[str, ...]:
    """The backends that compete on this device."""
    return ("cuda", "triton", "reference") if settings.device == "cuda" else ("cpu", "reference")


def contestant_name(backend: str) -> str:
    return f"fairtat, {backend}"


REFERENCE = contestant_name("reference")
CUDA, TRITON = contestant_name("cuda"), contestant_name("triton")


def kernel_contestants(
    settings: Settings, turns: Callable[[str], Sequence[Entrant]], calls: int = CALLS
) -> list[Contestant]:
    """One contestant for each backend, of the entrants that ``turns(backend)`` makes for a rotation.

    Kernels run in a CUDA graph. The reference is launched op by op, as whoever falls back on it would run it.
    """

    def kernels(backend: str) -> Entrant:
        state = backends.status()[backend]
        if not state.available:
            raise Unavailable(state.reason)
        return in_graph(turns(backend), settings.device, calls)

    def reference() -> Entrant:
        made = turns("reference")
        return in_turn(made, len(made))

    names = [name for name in kernel_names(settings) if name != "reference"]
    return [
        *(Contestant(contestant_name(n), "fairtat", lambda n=n: kernels(n)) for n in names),  # type: ignore[misc]
        Contestant(REFERENCE, "eager", reference, "the definition in PyTorch, outside a graph"),
    ]


def host_waits(run: Callable[[], object], device: str) -> bool | None:
    """Whether a call makes the host wait for the GPU; None on a CPU."""
    if device != "cuda":
        return None
    torch.cuda.synchronize()
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        return True
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return False


def peak_bytes(run: Callable[[], object], device: str) -> int | None:
    """The most GPU memory that PyTorch had allocated during a call, beyond what it held before; None on a CPU."""
    if device != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
