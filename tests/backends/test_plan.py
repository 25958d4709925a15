"""A kernel with its arguments bound does what the kernel does."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from fairtat.backends import kernel, native, plan, status

PRESENT = [name for name, state in status().items() if state.available and name in ("cpu", "reference")]
SHAPE = (3, 3, 5, 7)


def images(seed: int) -> Tensor:
    x = torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=torch.channels_last)


def arguments(norm: str, full: bool) -> list[Any]:
    """Of a step; the second one is the gradient."""
    n = SHAPE[0]
    if not full:
        return [images(0), None, images(1), None, 0.1, None, 0.03, False, norm, 0, 1, *[None] * 5, 0.0]
    eps, steps = torch.linspace(0, 0.2, n), torch.linspace(0.1, 0, n)
    model_input = torch.empty_like(images(1), dtype=torch.bfloat16)
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    count = torch.zeros(n, dtype=torch.int64)
    return [
        images(0), None, images(1), eps, 0.0, steps, 0.0, True, norm, 0.0, 1.0, model_input, mean, std, count,
        images(2) / 99, 0.9,
    ]  # fmt: skip


@pytest.mark.parametrize("backend", PRESENT)
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("full", [False, True])
def test_a_planned_step_is_the_kernels(backend: str, norm: str, full: bool) -> None:
    ours, theirs = arguments(norm, full), arguments(norm, full)
    ours[1] = ...
    step = plan("pgd_step", backend, *ours)
    for seed, dtype in enumerate((torch.float32, torch.bfloat16, torch.float16, torch.float32)):
        grad = (images(10 + seed) - 0.5).to(dtype)
        grad[seed % 3] = 0.0
        theirs[1] = grad
        step(grad)
        kernel("pgd_step", backend)(*theirs)
        for i in (0, 11, 14, 15):
            if theirs[i] is not None:
                assert torch.equal(ours[i], theirs[i]), i
    assert not torch.equal(ours[0], images(0))


@pytest.mark.parametrize("backend", PRESENT)
def test_a_plan_reads_what_its_tensors_contain_when_it_is_called(backend: str) -> None:
    given = arguments("linf", full=True)
    given[1] = ...
    step = plan("pgd_step", backend, *given)
    given[5].zero_()
    step(torch.ones_like(given[0]))
    assert torch.equal(
        given[0], images(0).clamp(given[2] - given[3].view(-1, 1, 1, 1), given[2] + given[3].view(-1, 1, 1, 1))
    )


@pytest.mark.parametrize("backend", PRESENT)
def test_a_plan_keeps_its_tensors_alive(backend: str) -> None:
    given = arguments("linf", full=True)
    kept = [given[i].data_ptr() for i in (2, 3, 5, 12, 13)]
    x_adv, given[1] = given[0], ...
    step = plan("pgd_step", backend, *given)
    del given
    # Memory that is free again goes to the next tensor of its size.
    others = [torch.empty(size) for size in (images(1).numel(), *[3] * 4) for _ in range(8)]
    assert not set(kept) & {t.data_ptr() for t in others}
    step(torch.ones_like(x_adv))


@pytest.mark.parametrize("backend", PRESENT)
def test_any_op_can_leave_arguments_open(backend: str) -> None:
    label, table = torch.arange(5), torch.arange(1, 6)
    draw = plan("sample_targets", backend, ..., table, None, ..., 3)
    run: Callable[..., Tensor] = kernel("sample_targets", backend)
    for seed, values in product((0, 7), (label, label.flip(0))):
        assert torch.equal(draw(values, seed), run(values, table, None, seed, 3))
    with pytest.raises(ValueError, match="shorter"):
        draw(label)


@pytest.mark.skipif(native.MISSING is not None, reason="needs the compiled core")
def test_the_core_refuses_a_call_with_too_few_or_too_many_values() -> None:
    core = native.core()
    for values in ((), (0,) * 5, (0,) * 40):
        with pytest.raises(TypeError, match="arguments for this kernel"):
            core.class_stats(*values)
        with pytest.raises(TypeError, match="arguments for this kernel"):
            core.class_stats_plan(values, (1,))
    planned = core.class_stats_plan((0, 0, 0, 0, 0, 0, 0, -1, 0), (1,))
    with pytest.raises(TypeError, match="other arguments"):
        planned(1, 2)
