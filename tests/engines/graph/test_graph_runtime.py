"""How CUDA graphs are captured, and what is put right where that fails: over a stand-in for torch.cuda.

The stand-in behaves as PyTorch's sources say that torch.cuda.graph does. test_engine_graph_gpu.py has the real one.
"""

from __future__ import annotations

import pytest
import torch

from fairtat.engines.graph import runtime
from fairtat.engines.graph.runtime import CudaGraphs, runtime_for

STREAMS = 32


class Generator:
    """A handle to a state, as PyTorch's CUDA generators are; a capture that fails leaves its mark on the state."""

    def __init__(self, device=None):
        self.state = {"capturing": False}

    def graphsafe_get_state(self):
        handle = Generator()
        handle.state = self.state
        return handle

    def graphsafe_set_state(self, other):
        self.state = other.state


class Device:
    """As much of a GPU as a capture needs."""

    def __init__(self, monkeypatch):
        self.log, self.waits = [], []
        self.current = "caller's"
        self.streams = 0
        self.open_pools = set()
        self.generator = Generator()
        device = self

        class Stream:
            def __init__(self, stream_device=None):
                self.name, self.cuda_stream = "side", device.streams % STREAMS
                device.streams += 1

            def wait_stream(self, other):
                device.waits.append((self.name, other.name))

        class On:
            def __init__(self, stream):
                self.stream = stream

            def __enter__(self):
                self.before, device.current = device.current, self.stream.name

            def __exit__(self, *error):
                device.current = self.before

        class Capture:
            def __init__(self, graph, pool, stream, capture_error_mode):
                assert capture_error_mode == "thread_local"
                self.pool, self.stream = pool, stream

            def __enter__(self):
                self.before, device.current = device.current, self.stream.name
                device.generator.state["capturing"] = True
                device.open_pools.add(self.pool)

            def __exit__(self, kind, error, trace):
                if isinstance(error, Forbidden):  # neither the allocator, the generator nor the stream is told
                    raise RuntimeError("operation failed due to a previous error during capture")
                device.current = self.before
                device.generator.state["capturing"] = False
                device.open_pools.remove(self.pool)

        class Graph:
            def replay(self):
                device.log.append("replay")

            def reset(self):
                device.log.append("reset")

        def end(index, pool):
            if pool not in device.open_pools:
                raise RuntimeError("not currently recording to this pool")
            device.open_pools.remove(pool)
            device.log.append(("end", index))

        current = Stream()
        current.name = "caller's"
        monkeypatch.setattr(torch, "Generator", Generator)
        for name, value in (
            ("Stream", Stream), ("stream", On), ("graph", Capture), ("CUDAGraph", Graph),
            ("default_generators", (self.generator,)), ("current_stream", lambda of: current),
            ("graph_pool_handle", lambda: (0, 7)), ("synchronize", lambda of: device.log.append("synchronize")),
        ):  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end, raising=False)
        monkeypatch.setattr(
            torch._C, "_cuda_releasePool", lambda *pool: self.log.append(("release", pool[0])), raising=False
        )


class Forbidden(Exception):
    """What a device says to work that no graph can hold."""


@pytest.fixture
def device(monkeypatch):
    return Device(monkeypatch)


def test_a_capture_happens_aside_and_not_with_the_callers_generator(device):
    graphs = CudaGraphs(torch.device("cuda:0"))
    mine = device.generator.state

    def work():
        assert device.current == "side"
        assert device.generator.state is not mine
        return "result"

    lane = graphs.new_lane()
    with graphs.aside(lane):
        assert device.current == "side"
    assert device.waits == [("side", "caller's"), ("caller's", "side")]
    replay, result = graphs.capture(work, lane)
    assert result == "result"
    assert device.current == "caller's"
    assert device.generator.state is mine
    assert (mine["capturing"], device.open_pools, device.log) == (False, set(), [])
    replay()
    assert device.log == ["replay"]


def test_after_a_capture_that_was_forbidden_nothing_waits_for_its_end(device):
    graphs = CudaGraphs(torch.device("cuda:0"))
    mine = device.generator.state

    def work():
        raise Forbidden("operation not permitted")

    with pytest.raises(Forbidden, match="operation not permitted"):  # and not what ending it says
        graphs.capture(work, graphs.new_lane())
    assert device.generator.state is mine
    assert (mine["capturing"], device.open_pools) == (False, set())
    assert device.log == [("end", 0), ("release", 0)]
    assert device.current == "caller's"


def test_an_exception_of_the_model_ends_a_capture_in_order(device):
    graphs = CudaGraphs(torch.device("cuda:0"))
    with pytest.raises(ZeroDivisionError):
        graphs.capture(lambda: 1 / 0, graphs.new_lane())
    assert (device.current, device.open_pools, device.log) == ("caller's", set(), [])


def test_graphs_of_a_lane_go_together_after_the_device_is_done(device):
    graphs = CudaGraphs(torch.device("cuda:0"))
    lane = graphs.new_lane()
    for _ in range(2):
        graphs.capture(lambda: None, lane)
    with pytest.raises(ZeroDivisionError):  # its graph would free the lane's workspaces as well
        graphs.capture(lambda: 1 / 0, lane)
    graphs.retire(lane)
    assert device.log == ["synchronize", "reset", "reset", "reset"]


def test_no_two_lanes_have_one_stream(device):
    graphs = CudaGraphs(torch.device("cuda:0"))
    lanes = [graphs.new_lane() for _ in range(STREAMS)]
    assert len({lane.stream.cuda_stream for lane in lanes}) == STREAMS
    with pytest.raises(RuntimeError, match="all of the 32 streams of cuda:0 belong to graphs"):
        graphs.new_lane()
    graphs.retire(lanes[7])
    assert graphs.new_lane().stream.cuda_stream == lanes[7].stream.cuda_stream


def test_only_gpus_have_graphs(device):
    runtime.runtime_for.cache_clear()
    assert runtime_for(torch.device("cpu")) is None
    assert runtime_for(torch.device("cuda:0")) is runtime_for(torch.device("cuda:0"))
    runtime.runtime_for.cache_clear()
