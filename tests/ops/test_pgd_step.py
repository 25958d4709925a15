"""pgd_step_ against the equations in numpy: float32 to the last bit for Linf, float64 for L2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from layouts import LAYOUTS
from pairwise import pairwise
from steps_by_hand import GRADS, INF, NAN, SHAPES, batch, l2, linf
from torch import Tensor

from fairtat.ops import pgd_step_

Layout = Callable[[Tensor], Tensor]
SameBits = Callable[[Tensor, Tensor], None]


@pairwise(targeted=(True, False), dtype=GRADS, norm=("linf", "l2"))
def test_towards_a_target_descends_and_away_from_a_label_ascends(
    backend: str, dtype: torch.dtype, targeted: bool, norm: str
) -> None:
    x = torch.full((1, 2), 0.5)
    grad = torch.tensor([[2.0, -2.0]], dtype=dtype)
    moved = pgd_step_(x.clone(), grad, x, 0.25, 0.125, targeted=targeted, norm=norm, backend=backend) - x
    signs = [-1.0, 1.0] if targeted else [1.0, -1.0]
    assert moved.sign().tolist() == [signs]


@pairwise("threads", shape=SHAPES, dtype=GRADS, targeted=(True, False), per_sample=(False, True), threads=(1, 3))
def test_linf_is_the_equation_to_the_last_bit(
    backend: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    targeted: bool,
    per_sample: bool,
    threads: int,
    same_bits: SameBits,
) -> None:
    x_adv, grad, x = batch(shape, dtype)
    eps: float | Tensor = torch.linspace(0.0, 0.3, shape[0]) if per_sample else 8 / 255
    step: float | Tensor = torch.linspace(0.2, 0.01, shape[0]) if per_sample else 2 / 255
    expected = linf(x_adv, grad, x, eps, step, targeted)
    kept = grad.clone(), x.clone()
    moved = pgd_step_(x_adv, grad, x, eps, step, targeted=targeted, backend=backend)
    assert moved is x_adv
    same_bits(moved, expected)
    same_bits(grad, kept[0])
    same_bits(x, kept[1])


@pairwise("threads", shape=SHAPES, dtype=GRADS, targeted=(True, False), per_sample=(False, True), threads=(1, 3))
def test_l2_is_the_equation_in_float64(
    backend: str, shape: tuple[int, ...], dtype: torch.dtype, targeted: bool, per_sample: bool, threads: int
) -> None:
    x_adv, grad, x = batch(shape, dtype)
    eps: float | Tensor = torch.linspace(0.01, 2.0, shape[0]) if per_sample else 0.5
    step: float | Tensor = torch.linspace(1.0, 0.01, shape[0]) if per_sample else 0.1
    expected = l2(x_adv, grad, x, eps, step, targeted)
    moved = pgd_step_(x_adv, grad, x, eps, step, targeted=targeted, norm="l2", backend=backend)
    torch.testing.assert_close(moved.double(), expected, rtol=1e-5, atol=1e-6)


@pairwise(
    "threads", shape=[*SHAPES, (0, 3, 4, 4)], dtype=GRADS, share=(0.0, 0.4, 1.0), per_sample=(False, True),
    norm=("linf", "l2"), threads=(1, 3),
)  # fmt: skip
def test_samples_of_both_directions_step_as_they_would_apart(
    backend: str, shape: tuple[int, ...], dtype: torch.dtype, share: float, per_sample: bool, norm: str, threads: int,
    same_bits: SameBits,
) -> None:  # fmt: skip
    x_adv, grad, x = batch(shape, dtype)
    n = shape[0]
    targeted = torch.rand(n, generator=torch.Generator().manual_seed(3)) < share
    eps: float | Tensor = torch.linspace(0.01, 0.3, n) if per_sample else 8 / 255
    step: float | Tensor = torch.linspace(0.2, 0.01, n) if per_sample else 2 / 255
    by_row = targeted.view(-1, *[1] * (x.ndim - 1))
    oracle = linf if norm == "linf" else l2
    expected = torch.where(by_row, *(oracle(x_adv, grad, x, eps, step, towards) for towards in (True, False)))
    kept, model_input = targeted.clone(), torch.empty_like(x, dtype=torch.bfloat16)
    moved = pgd_step_(x_adv, grad, x, eps, step, targeted=targeted, norm=norm, model_input=model_input, backend=backend)
    assert torch.equal(targeted, kept)
    same_bits(model_input, moved.bfloat16())
    if norm == "linf":
        same_bits(moved, expected)
    else:
        torch.testing.assert_close(moved.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("grad_dtype", [*GRADS, torch.float64], ids=str)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_float64_images_step_in_their_precision(grad_dtype: torch.dtype, norm: str) -> None:
    x_adv, grad, x = batch((3, 2, 5, 3))
    x_adv, grad, x = x_adv.double(), grad.to(grad_dtype), x.double()
    oracle = linf if norm == "linf" else l2
    expected = oracle(x_adv, grad, x, 0.1, 0.03, targeted=True)
    moved = pgd_step_(x_adv, grad, x, 0.1, 0.03, norm=norm)
    torch.testing.assert_close(moved, expected, rtol=0, atol=0 if norm == "linf" else 1e-15)


@pairwise("layout", "threads", layout=LAYOUTS, norm=("linf", "l2"), threads=(1, 3))
def test_every_memory_format_is_stepped_in_place(
    backend: str, layout: Layout, norm: str, threads: int, same_bits: SameBits
) -> None:
    plain = batch((3, 3, 45, 43))
    expected = plain[0].clone()
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.25]
    expected_input = torch.empty_like(expected)
    options: dict[str, Any] = {"mean": mean, "std": std, "norm": norm, "backend": backend}
    pgd_step_(expected, plain[1], plain[2], 0.1, 0.03, model_input=expected_input, **options)

    x_adv, grad, x = (layout(t) for t in plain)
    model_input = torch.empty_like(x_adv)
    strides, address = x_adv.stride(), x_adv.data_ptr()
    pgd_step_(x_adv, grad, x, 0.1, 0.03, model_input=model_input, **options)
    assert (x_adv.stride(), x_adv.data_ptr()) == (strides, address)
    if norm == "linf":
        same_bits(x_adv, expected)
        same_bits(model_input, expected_input)
    else:  # a sum over the sample in another order
        torch.testing.assert_close(x_adv, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_eps_zero_returns_to_the_image(backend: str, norm: str) -> None:
    x_adv, grad, x = batch((3, 2, 5, 5))
    for eps in (0, torch.zeros(3)):
        moved = pgd_step_(x_adv.clone(), grad, x, eps, 0.1, norm=norm, backend=backend)
        torch.testing.assert_close(moved, x, rtol=0, atol=0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_step_zero_only_projects(backend: str, norm: str) -> None:
    _, grad, x = batch((2, 40))
    far = x + torch.linspace(-1, 1, 80).view(2, 40)
    oracle = linf if norm == "linf" else l2
    expected = oracle(far, grad, x, 0.2, 0.0, targeted=True).float()
    torch.testing.assert_close(pgd_step_(far, grad, x, 0.2, 0.0, norm=norm, backend=backend), expected)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_per_sample_radii_do_not_leak_into_neighbours(backend: str, norm: str) -> None:
    x_adv, grad, x = batch((6, 3, 5, 5))
    eps, step = torch.linspace(0, 0.5, 12)[::2], torch.linspace(0.3, 0, 6).double()
    whole = pgd_step_(x_adv.clone(), grad, x, eps, step, norm=norm, backend=backend)
    for i in range(6):
        one = pgd_step_(
            x_adv[i : i + 1].clone(), grad[i : i + 1], x[i : i + 1], float(eps[i]), float(step.float()[i]),
            norm=norm, backend=backend,
        )  # fmt: skip
        torch.testing.assert_close(one, whole[i : i + 1], rtol=0, atol=0 if norm == "linf" else 1e-7)


@pairwise("threads", dtype=GRADS, norm=("linf", "l2"), threads=(1, 3))
def test_zero_grad_counts_samples_without_any_direction(
    backend: str, dtype: torch.dtype, norm: str, threads: int
) -> None:
    grad = torch.zeros(8, 3, 41, 43)  # rows longer than a kernel's block
    grad[1] = NAN
    grad[2, 2, 40, 42] = 6e-8  # subnormal in float16
    grad[3] = -0.0
    grad[4, 0, 0, 0] = -INF
    grad[5, 1, 20, 20] = NAN
    grad[5, 1, 20, 21] = -1.0
    grad[6, 2, 40, 42] = 1.0
    x = torch.full(grad.shape, 0.5)
    count = torch.tensor([10, 20, 30, 40, 50, 60, 70, 80])
    for _ in range(2):
        pgd_step_(x.clone(), grad.to(dtype), x, 0.1, 0.1, norm=norm, zero_grad=count, backend=backend)
    assert count.tolist() == [12, 22, 30, 42, 50, 60, 70, 82]


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (0, 5), (3, 0), (2, 0, 4)], ids=str)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_empty_batches_and_empty_images(backend: str, shape: tuple[int, ...], norm: str) -> None:
    x = torch.empty(shape)
    count = torch.zeros(shape[0], dtype=torch.int64)
    values = torch.ones(shape[1])
    moved = pgd_step_(
        x.clone(), x.clone(), x, 0.1, 0.1, norm=norm, zero_grad=count, backend=backend,
        model_input=torch.empty(shape, dtype=torch.bfloat16), mean=values, std=values,
    )  # fmt: skip
    assert moved.shape == shape
    assert count.tolist() == [0] * shape[0]


def test_leaves_that_require_grad_are_stepped_as_data(backend: str) -> None:
    x_adv, grad, x = batch((2, 5))
    expected = linf(x_adv, grad, x, 0.1, 0.1, targeted=True)
    x_adv.requires_grad_()
    before = x_adv._version
    pgd_step_(x_adv, grad.requires_grad_(), x, 0.1, 0.1, backend=backend)
    assert x_adv._version > before
    assert x_adv.is_leaf
    torch.testing.assert_close(x_adv.detach(), expected, rtol=0, atol=0)
