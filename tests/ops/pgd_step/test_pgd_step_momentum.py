"""pgd_step_ with momentum against MI-FGSM's equation (arXiv:1710.06081) in numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from layouts import LAYOUTS
from pairwise import pairwise
from torch import Tensor

from fairtat.ops import pgd_step_

SameBits = Callable[[Tensor, Tensor], None]
GRADS = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 1), (3, 7), (1, 3, 5, 5), (4, 3, 9, 7), (5, 3, 67, 33), (0, 3, 4, 4)]
LARGEST = float(np.finfo(np.float32).max)
INF, NAN = float("inf"), float("nan")


def accumulated(velocity: Tensor, grad: Tensor, momentum: float) -> Tensor:
    """The equation: the norm in float64, all else in the precision of the images."""
    v = velocity.numpy()
    g = np.clip(np.nan_to_num(grad.double().numpy(), nan=0.0, posinf=LARGEST, neginf=-LARGEST), -LARGEST, LARGEST)
    norm = np.minimum(np.abs(g).sum(tuple(range(1, g.ndim))), LARGEST).astype(v.dtype)
    norm[norm == 0] = 1
    share = g.astype(v.dtype) / norm.reshape(-1, *[1] * (g.ndim - 1))
    return torch.from_numpy(v.dtype.type(momentum) * v + share)


def batch(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=g)
    x_adv = (x + (torch.rand(shape, generator=g) - 0.5) * 0.1).clamp(0, 1)
    return x_adv, torch.randn(shape, generator=g).to(dtype), x


@pairwise(
    "threads", shape=SHAPES, dtype=GRADS, norm=("linf", "l2"), targeted=(True, False, None), layout=LAYOUTS,
    momentum=(0.0, 0.9, 1.0), threads=(1, 3),
)  # fmt: skip
def test_the_step_is_the_plain_step_along_the_velocity(
    backend: str, shape: tuple[int, ...], dtype: torch.dtype, norm: str, targeted: bool | None,
    layout: Callable[[Tensor], Tensor], momentum: float, threads: int, same_bits: SameBits,
) -> None:  # fmt: skip
    x_adv, grad, x = (layout(t) if t.ndim > 2 else t for t in batch(shape, dtype))
    velocity = torch.zeros_like(x)
    towards = targeted if targeted is not None else torch.arange(len(x)) % 2 == 0
    for step in range(3):
        grad = torch.roll(grad, step, 0) * (-1) ** step
        grad = torch.empty_like(x, dtype=dtype).copy_(grad)
        expected_velocity = accumulated(velocity, grad, momentum)
        along = torch.empty_like(x).copy_(expected_velocity)
        expected = pgd_step_(x_adv.clone(), along, x, 0.1, 0.03, targeted=towards, norm=norm, backend=backend)
        model_input = torch.empty_like(x, dtype=torch.bfloat16)
        moved = pgd_step_(
            x_adv, grad, x, 0.1, 0.03, targeted=towards, norm=norm, velocity=velocity, momentum=momentum,
            model_input=model_input, backend=backend,
        )  # fmt: skip
        assert moved is x_adv
        same_bits(velocity, expected_velocity)
        same_bits(moved, expected)
        same_bits(model_input, moved.bfloat16())


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("dtype", [*GRADS, torch.float64], ids=str)
def test_steps_are_the_papers_in_float64(dtype: torch.dtype, norm: str) -> None:
    x_adv, grad, x = (t.double() for t in batch((4, 3, 5, 7), torch.float32))
    velocity, ours = torch.zeros_like(x), x_adv.clone()
    g = torch.zeros_like(x)
    for step in range(4):
        now = (grad * (-0.7) ** step).to(dtype)
        pgd_step_(ours, now, x, 0.1, 0.03, targeted=False, norm=norm, velocity=velocity, momentum=0.9)
        g = 0.9 * g + now.double() / now.double().abs().sum((1, 2, 3), keepdim=True)
        if norm == "linf":
            x_adv = (x_adv + 0.03 * g.sign()).clamp(x - 0.1, x + 0.1).clamp(0, 1)
        else:
            offset = x_adv + 0.03 * g / (g.square().sum((1, 2, 3), keepdim=True).sqrt() + 1e-12) - x
            length = offset.square().sum((1, 2, 3), keepdim=True).sqrt()
            x_adv = (x + offset * (0.1 / length).clamp_max(1.0)).clamp(0, 1)
        torch.testing.assert_close(ours, x_adv, rtol=0, atol=1e-12)
        torch.testing.assert_close(velocity, g, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_zero_gradients_add_nothing_and_are_counted_by_the_gradient(backend: str, norm: str) -> None:
    x = torch.full((3, 5000), 0.5)
    grad = torch.zeros_like(x)
    grad[1, 4999], grad[2, 7] = 1e-45, NAN
    velocity, count = torch.ones_like(x), torch.tensor([5, 6, 7])
    moved = pgd_step_(
        x.clone(), grad, x, 1.0, 0.25, targeted=False, norm=norm, velocity=velocity, momentum=0.5, zero_grad=count,
        backend=backend,
    )  # fmt: skip
    assert count.tolist() == [6, 6, 8]
    assert velocity[0].unique().tolist() == velocity[2].unique().tolist() == [0.5]
    assert velocity[1, 4999] == 1.5
    assert bool((moved > x).all())


@pytest.mark.parametrize("dtype", GRADS, ids=str)
def test_gradients_of_any_size_have_a_share(backend: str, dtype: torch.dtype, same_bits: SameBits) -> None:
    rows = [
        [3e38, -3e38, 1.0],
        [INF, -INF, 1.0],
        [INF, 0.0, NAN],
        [1e-45, -3e-45, 0.0],
        [6e-8, 0.0, -6e-8],
        [1e30, 1e-30, -0.0],
    ]
    grad = torch.tensor(rows).to(dtype)
    x, velocity = torch.full((6, 3), 0.5), torch.zeros(6, 3)
    expected = accumulated(velocity, grad, 1.0)
    pgd_step_(x.clone(), grad, x, 0.1, 0.1, velocity=velocity, momentum=1.0, backend=backend)
    same_bits(velocity, expected)
    assert bool(velocity.isfinite().all())


V = torch.zeros(2, 3, 4, 4)
BAD = {
    "momentum negative": ({"momentum": -0.1, "velocity": V}, ValueError, "momentum must be .* at least 0, got -0.1"),
    "momentum nan": ({"momentum": NAN, "velocity": V}, ValueError, "momentum must be finite and at least 0, got nan"),
    "momentum a tensor": ({"momentum": V, "velocity": V}, TypeError, "momentum must be a number, got Tensor"),
    "momentum alone": ({"momentum": 0.9}, ValueError, "momentum needs velocity, .* got 0.9"),
    "velocity in float64": ({"velocity": V.double()}, TypeError, "velocity must be float32, got float64"),
    "velocity of another shape": ({"velocity": V[:1]}, ValueError, r"velocity must have shape \(2, 3, 4, 4\), got"),
    "velocity of another format": (
        {"velocity": V.contiguous(memory_format=torch.channels_last)}, ValueError, "velocity must have the memory",
    ),
    "velocity a list": ({"velocity": [0.0]}, TypeError, "velocity must be a tensor, got list"),
}  # fmt: skip


@pytest.mark.parametrize(("given", "error", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named(given: dict[str, object], error: type[Exception], message: str) -> None:
    x = torch.full((2, 3, 4, 4), 0.5)
    with pytest.raises(error, match=message):
        pgd_step_(x.clone(), x, x, 0.1, 0.1, **given)


def test_the_velocity_shares_no_memory(backend: str) -> None:
    x, grad = torch.full((2, 3, 4, 4), 0.5), torch.ones(2, 3, 4, 4)
    x_adv = x.clone()
    for shared, name in ((grad, "grad"), (x, "x")):
        with pytest.raises(ValueError, match=f"{name} must not share memory with velocity"):
            pgd_step_(x_adv, grad, x, 0.1, 0.1, velocity=shared, backend=backend)
    with pytest.raises(ValueError, match="velocity must not share memory with x_adv"):
        pgd_step_(x_adv, grad, x, 0.1, 0.1, velocity=x_adv, backend=backend)
