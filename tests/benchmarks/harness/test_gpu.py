from __future__ import annotations

import pytest
import torch
from harness import Entrant, Settings, gpu
from harness.timing import wall_clock

CPU, CUDA = Settings(device="cpu"), Settings(device="cuda")


def test_a_rotation_runs_every_entrant_and_answers_as_the_first() -> None:
    ran: list[str] = []
    entrants = [Entrant(lambda n=n: ran.append(n), lambda n=n: {"name": torch.tensor(ord(n))}) for n in "abc"]
    turns = gpu.in_graph(entrants, "cpu")
    turns.run()
    assert ran == ["a", "b", "c"]
    assert turns.share == 3
    assert turns.outcome is not None
    assert chr(int(turns.outcome()["name"])) == "a"
    assert gpu.in_turn(entrants, 7).share == 7
    gpu.in_turn(entrants, 7).run()
    assert ran == [*"abc", *"abcabca"]


def test_cold_inputs_are_more_than_the_cache_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        L2_cache_size = 50 << 20

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    each = 6 << 20
    assert len(gpu.rotation(lambda seed: seed, each, settings=CUDA)) * each > 2 * Properties.L2_cache_size
    assert gpu.rotation(lambda seed: seed, 1 << 30, settings=CUDA) == [0]
    assert gpu.rotation(lambda seed: seed, each, settings=CUDA, cold=False) == [0]
    assert gpu.rotation(lambda seed: seed, each, settings=CPU) == [0, 1]


def test_each_device_has_its_backends_and_its_clock() -> None:
    assert gpu.kernel_names(CUDA) == ("cuda", "triton", "reference")
    assert gpu.kernel_names(CPU) == ("cpu", "reference")
    assert gpu.clock("cpu") is wall_clock
    assert gpu.clock("cuda") is gpu.event_clock


def test_a_cpu_has_no_gpu_memory_and_waits_for_nothing() -> None:
    assert gpu.peak_bytes(lambda: pytest.fail("ran"), "cpu") is None
    assert gpu.host_waits(lambda: pytest.fail("ran"), "cpu") is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_events_measure_the_kernels_and_not_their_launch() -> None:
    x = torch.rand(64 << 20, device="cuda")
    y = torch.empty_like(x)
    copied = gpu.in_graph([Entrant(lambda: y.copy_(x))], "cuda", calls=20)
    seconds = gpu.event_clock(copied.run, 3) / copied.share
    assert torch.equal(x, y)
    assert 2 * x.numel() * 4 / seconds < 20e12  # bytes a second: faster than any memory would mean nothing ran
    assert gpu.host_waits(lambda: y.copy_(x), "cuda") is False
    assert gpu.host_waits(lambda: float(y[0]), "cuda") is True
    peak = gpu.peak_bytes(lambda: x + 1, "cuda")
    assert peak is not None
    assert peak >= x.numel() * 4
