"""What only a GPU can show of both backends' launches: streams, no waiting host, capture in a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from op_calls import CALLS, tensors_of
from torch import Tensor

from fairtat import ClassStats, backends, ops

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]

N, CLASSES = 64, 10


@pytest.fixture(params=["cuda", "triton"])
def backend(request: pytest.FixtureRequest) -> str:
    state = backends.status()[request.param]
    if not state.available:
        pytest.skip(state.reason)
    return str(request.param)


Call = Callable[[], tuple[Tensor, ...]]  # a fresh answer from the same inputs


def calls(backend: str) -> dict[str, Call]:
    """Each op on tensors that are on the GPU already; where there is nothing better, its kernel alone."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(N, 3, 8, 8, generator=generator).cuda()
    grad = torch.randn(N, 3, 8, 8, generator=generator).cuda()
    logits = torch.randn(N, CLASSES, generator=generator).cuda()
    label, pred = (torch.randint(CLASSES, (N,), generator=generator).cuda() for _ in range(2))
    loss = torch.rand(N, generator=generator).cuda()
    table = ops.target_table(torch.rand(CLASSES, generator=generator)).cuda()
    eps = torch.rand(N, generator=generator).cuda()
    stats = ClassStats(CLASSES, device="cuda")

    def count() -> tuple[Tensor, ...]:
        stats.reset()
        return (ops.class_stats_(stats, pred, label, loss=loss, backend=backend).buffer.clone(),)

    def kernel_alone(op: str) -> Call:
        arguments = next(iter(CALLS[op]().values()))
        there = [a.cuda() if isinstance(a, Tensor) else a for a in arguments]

        def call() -> tuple[Tensor, ...]:
            given = [a.clone() if isinstance(a, Tensor) else a for a in there]
            return tensors_of(backends.kernel(op, backend)(*given), *given)

        return call

    return {
        **{op: kernel_alone(op) for op in backends.OPS},
        "pgd_init": lambda: (ops.pgd_init(x, eps, seed=3, backend=backend),),
        "pgd_step": lambda: (ops.pgd_step_(x.clone(), grad, x, eps, 0.01, backend=backend),),
        "logit_loss": lambda: tuple(ops.logit_loss(logits, label, backend=backend)),
        "sample_targets": lambda: (ops.sample_targets(label, table, seed=3, backend=backend),),
        "class_stats": count,
    }


@contextmanager
def no_waiting() -> Iterator[None]:
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("op", backends.OPS)
def test_no_op_makes_the_host_wait(backend: str, op: str) -> None:
    call = calls(backend)[op]
    call()  # compiled, and its memory is there
    with no_waiting():
        call()


@pytest.mark.parametrize("op", backends.OPS)
def test_a_call_runs_in_the_order_of_the_current_stream(backend: str, op: str) -> None:
    call = calls(backend)[op]
    expected = call()
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        found = call()
        done = stream.record_event()
    assert not done.query()  # still behind the sleeping kernel: nothing ran ahead on another stream
    stream.synchronize()
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("op", backends.OPS)
def test_a_captured_call_gives_the_same_answer_at_every_replay(backend: str, op: str) -> None:
    call = calls(backend)[op]
    expected = [t.clone() for t in call()]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = call()
    for _ in range(3):
        for t in found:
            t.zero_()
        graph.replay()
        for ours, theirs in zip(found, expected, strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("op", backends.OPS)
def test_auto_takes_a_kernel_that_is_present_and_first_in_the_order(op: str) -> None:
    chosen = backends.choose(op, torch.device("cuda", 0), torch.float32)
    present = [name for name in backends.auto.GPU_ORDER[op] if backends.status()[name].available]
    assert chosen == present[0]
