"""CUDA graphs behind the few verbs that the graph engine needs, so that its logic can be tested without a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

R = TypeVar("R")


class GraphRuntime(Protocol):
    """A device that can record its work once and repeat it on the same memory."""

    def generators(self) -> list[torch.Generator]:
        """What a model may draw random numbers from."""

    def stream(self) -> Any:
        """The caller's current stream."""

    def wait_for(self, stream: Any) -> None:
        """Order later work on the current stream after all work that is on another one now."""

    def used_here(self, tensors: Iterable[Tensor]) -> None:
        """Keep the memory of tensors that die from other uses until the current stream is done with it."""

    def new_lane(self) -> Any:
        """A stream, on which no other lane's graphs were captured, and memory.

        Graphs of a lane never run at the same time: they share the memory for what is alive only while they run.

        Raises:
            RuntimeError: there is no such stream.
        """

    def retire(self, lane: Any) -> None:
        """Wait until the device is done, destroy all graphs of a lane, and give back its stream and memory."""

    def free_memory(self) -> None:
        """Give the device back what is kept for later use."""

    def aside(self, lane: Any) -> AbstractContextManager[object]:
        """A lane's stream, to warm up on, ordered after what the current one has been given, and before what comes."""

    def capture(self, function: Callable[[], R], lane: Any) -> tuple[Callable[[], object], R]:
        """(what repeats the device's work of one call of ``function``, what that call returned and repeats write to).

        Raises:
            Exception: of any type, where the work cannot be captured. The device is as it was before.
        """


@cache
def runtime_for(device: torch.device) -> GraphRuntime | None:
    """The runtime of a device, or None where it has no graphs."""
    return CudaGraphs(device) if device.type == "cuda" else None


MAX_STREAMS = 32  # that PyTorch hands out in turn


@dataclass(eq=False)
class Lane:
    """What graphs were captured with, and all of them, those that failed included."""

    stream: torch.cuda.Stream
    pool: Any
    graphs: list[torch.cuda.CUDAGraph] = field(default_factory=list)


class CudaGraphs:
    """CUDA graphs through PyTorch (on AMD GPUs: HIP graphs)."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._taken: set[int] = set()  # streams of lanes

    def generators(self) -> list[torch.Generator]:
        return [torch.default_generator, torch.cuda.default_generators[self._index]]

    def stream(self) -> torch.cuda.Stream:
        return torch.cuda.current_stream(self._device)

    def wait_for(self, stream: torch.cuda.Stream) -> None:
        self.stream().wait_stream(stream)

    def used_here(self, tensors: Iterable[Tensor]) -> None:
        stream = self.stream()
        for tensor in tensors:
            tensor.record_stream(stream)

    def new_lane(self) -> Lane:
        for _ in range(MAX_STREAMS):
            stream = torch.cuda.Stream(self._device)
            if stream.cuda_stream not in self._taken:
                self._taken.add(stream.cuda_stream)
                return Lane(stream, torch.cuda.graph_pool_handle())
        raise RuntimeError(f"all of the {MAX_STREAMS} streams of {self._device} belong to graphs of other models")

    def retire(self, lane: Lane) -> None:
        torch.cuda.synchronize(self._device)
        for graph in lane.graphs:
            graph.reset()
        lane.graphs.clear()
        self._taken.discard(lane.stream.cuda_stream)

    def free_memory(self) -> None:
        torch.cuda.empty_cache()

    @contextmanager
    def aside(self, lane: Lane) -> Any:
        lane.stream.wait_stream(self.stream())
        try:
            with torch.cuda.stream(lane.stream):
                yield
        finally:
            self.stream().wait_stream(lane.stream)

    def capture(self, function: Callable[[], R], lane: Lane) -> tuple[Callable[[], object], R]:
        graph = torch.cuda.CUDAGraph()
        lane.graphs.append(graph)  # which outlives a capture that fails, as its stream may have others
        generator = torch.cuda.default_generators[self._index]
        # What is captured draws no random numbers, but a capture marks the generator as its own, and one that fails
        # leaves the mark. So the caller's generator sits out.
        cause: BaseException | None = None
        callers_state = generator.graphsafe_get_state()
        generator.graphsafe_set_state(torch.Generator(self._device))
        try:
            # The outer context, as torch.cuda.graph leaves its stream the current one where a capture fails. Other
            # threads (data loaders, the watchdog of a process group) may continue calling CUDA.
            with (
                torch.cuda.stream(lane.stream),
                torch.cuda.graph(graph, pool=lane.pool, stream=lane.stream, capture_error_mode="thread_local"),
            ):
                try:
                    result = function()
                except BaseException as error:
                    cause = error
                    raise
        except BaseException as error:
            self._abandon(lane.pool)
            raise cause or error from None  # ending a capture that has failed raises an error of its own
        finally:
            generator.graphsafe_set_state(callers_state)
        return graph.replay, result

    @property
    def _index(self) -> int:
        return torch.cuda.current_device() if self._device.index is None else self._device.index

    def _abandon(self, pool: Any) -> None:
        """Tell the allocator that a capture is over where PyTorch, finding it invalid, did not get that far."""
        with suppress(RuntimeError):  # it did
            torch._C._cuda_endAllocateToPool(self._index, pool)
            torch._C._cuda_releasePool(self._index, pool)
