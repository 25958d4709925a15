"""The ops under torch.compile: one graph, one dynamic graph, and no compilation for a new seed or radius."""

from __future__ import annotations

import pytest
import torch
from op_calls import NAMES, OP_NAMES, TABLE, assert_equal, every_op, images, index
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from fairtat.ops import pgd_init, sample_targets


# What is traced differs between "auto" and a name, not from one name to another.
@pytest.mark.parametrize(
    ("choice", "name"), [*(("auto", name) for name in OP_NAMES), *((choice, "pgd_step_") for choice in NAMES)]
)
def test_compiles_into_one_graph(name: str, choice: str) -> None:
    function, tensors = every_op(choice)[name]
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, fullgraph=True, backend=counter)
    given, same = tensors(4), [t.clone() for t in tensors(4)]
    given[-1].copy_(same[-1])
    for _ in range(2):
        assert_equal(compiled(*given), function(*same))
    # What the op writes in place reaches the caller's tensors.
    for ours, expected in zip(given, same, strict=True):
        assert_equal(ours, expected)
    assert counter.frame_count == 1


@pytest.mark.parametrize("name", OP_NAMES)
def test_one_dynamic_graph_serves_every_batch_size(name: str) -> None:
    function, tensors = every_op("auto")[name]
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, fullgraph=True, backend=counter)
    for n in (4, 9, 23):
        given = tensors(n)
        same = [t.clone() for t in given]
        assert_equal(compiled(*given), function(*same))
    assert counter.frame_count == 2  # the first batch's graph, and the one for all others


def test_new_seeds_and_streams_do_not_compile_again() -> None:
    # A training loop draws with another seed or stream in every step.
    def draw(x: Tensor, label: Tensor, seed: int, stream: int) -> tuple[Tensor, Tensor]:
        start = pgd_init(x, 0.1, seed=seed, stream=stream)
        return start, sample_targets(label, TABLE, seed=seed, stream=stream)

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(draw, fullgraph=True, backend=counter)
    for step in range(8):
        assert_equal(compiled(images(), index(), 1000 + step, step + 2), draw(images(), index(), 1000 + step, step + 2))
    assert counter.frame_count <= 2
    for seed in (2**63, 2**64 - 1, -(2**63)):
        assert_equal(compiled(images(), index(), seed, 2), draw(images(), index(), seed, 2))


def test_radii_in_a_tensor_do_not_compile_again() -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda x, eps: pgd_init(x, eps, seed=0), fullgraph=True, backend=counter)
    for eps in torch.linspace(0, 1, 12):
        assert_equal(compiled(images(), eps), pgd_init(images(), eps, seed=0))
    assert counter.frame_count == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", OP_NAMES)
def test_inductor_serves_every_op(backend: str, name: str) -> None:
    function, tensors = every_op(backend)[name]
    given = tensors(4)
    same = [t.clone() for t in given]
    assert_equal(torch.compile(function, fullgraph=True)(*given), function(*same))
    for ours, expected in zip(given, same, strict=True):
        assert_equal(ours, expected)
