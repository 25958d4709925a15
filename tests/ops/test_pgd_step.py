"""pgd_step_ against the equations in numpy: float32 to the last bit for Linf, float64 for L2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from layouts import LAYOUTS
from pairwise import pairwise
from torch import Tensor

from fairtat.ops import pgd_step_

Layout = Callable[[Tensor], Tensor]
SameBits = Callable[[Tensor, Tensor], None]
Number = float | np.ndarray | Tensor
Bounds = tuple[float, float]

GRADS = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 1), (2, 1, 1, 1), (3, 7), (1, 3, 5, 5), (4, 3, 9, 7), (2, 2, 3, 1, 4, 2), (5, 3, 67, 33)]
INF, NAN = float("inf"), float("nan")


def by_sample(value: Number, like: np.ndarray) -> np.ndarray:
    """A radius or step in the images' precision, with a shape that broadcasts over them."""
    array = np.asarray(value, dtype=like.dtype)
    return array.reshape(-1, *[1] * (like.ndim - 1)) if array.ndim else array


def linf(
    x_adv: Tensor, grad: Tensor, x: Tensor, eps: Number, step: Number, targeted: bool, bounds: Bounds = (0.0, 1.0)
) -> Tensor:
    """The equation of the design in the precision of the images."""
    a, g, c = x_adv.numpy(), grad.double().numpy(), x.numpy()
    eps, step = by_sample(eps, c), by_sample(step, c)
    lo, hi = c.dtype.type(bounds[0]), c.dtype.type(bounds[1])
    sign = np.where(g > 0, 1, np.where(g < 0, -1, 0)).astype(c.dtype)
    moved = a - step * sign if targeted else a + step * sign
    # A bound replaces a value that lies beyond it, and no other: that settles the sign of zero.
    lower, upper = c - eps, c + eps
    lower, upper = np.where(lower < lo, lo, lower), np.where(upper > hi, hi, upper)
    moved = np.where(moved < lower, lower, moved)
    return torch.from_numpy(np.where(moved > upper, upper, moved))


def l2(
    x_adv: Tensor, grad: Tensor, x: Tensor, eps: Number, step: Number, targeted: bool, bounds: Bounds = (0.0, 1.0)
) -> Tensor:
    """The equation in float64; an infinite gradient counts as the largest float32, NaN as 0."""
    a, g, c = x_adv.double().numpy(), grad.double().numpy(), x.double().numpy()
    eps, step = by_sample(eps, c), by_sample(step, c)
    largest = np.finfo(np.float32).max.astype(float)
    g = np.clip(np.nan_to_num(g, nan=0.0, posinf=largest, neginf=-largest), -largest, largest)
    inner = tuple(range(1, g.ndim))
    direction = g / (np.sqrt((g * g).sum(inner, keepdims=True)) + 1e-12)
    v = a - (1 if targeted else -1) * step * direction - c
    length = np.sqrt((v * v).sum(inner, keepdims=True))
    v = v * np.minimum(1.0, eps / np.maximum(length, 1e-300))
    return torch.from_numpy(np.clip(c + v, *bounds))


def batch(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """x_adv near x, a gradient with zeros, and x."""
    g = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=g)
    x_adv = (x + (torch.rand(shape, generator=g) - 0.5) * 0.3).clamp(0, 1)
    grad = torch.randn(shape, generator=g) * (torch.rand(shape, generator=g) > 0.2)
    return x_adv, grad.to(dtype), x


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


SPECIAL = [0.0, -0.0, 1e-42, -1e-42, 6e-8, -6e-8, 1e-40, NAN, -NAN, INF, -INF, 3e38, -3e38, 1.0, -1.0]


@pytest.mark.parametrize("targeted", [True, False], ids=["targeted", "untargeted"])
@pytest.mark.parametrize("dtype", GRADS, ids=str)
def test_linf_takes_the_sign_of_special_gradients(
    backend: str, dtype: torch.dtype, targeted: bool, same_bits: SameBits
) -> None:
    # Zero, NaN and what underflows in the dtype move nothing; a subnormal and an infinity move like any number.
    grad = torch.tensor([SPECIAL * 3]).to(dtype)
    x_adv = torch.full_like(grad, 0.5, dtype=torch.float32)
    x_adv[:, len(SPECIAL) : 2 * len(SPECIAL)] = 0.0
    x_adv[:, 2 * len(SPECIAL) :] = -0.0
    x = x_adv.abs()
    expected = linf(x_adv, grad, x, 0.25, 0.125, targeted, bounds=(-1.0, 1.0))
    same_bits(pgd_step_(x_adv, grad, x, 0.25, 0.125, targeted=targeted, bounds=(-1, 1), backend=backend), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_16_bit_gradient_has_the_sign_that_its_value_has(backend: str, dtype: torch.dtype) -> None:
    grad = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)[None]
    x = torch.full((1, 2**16), 0.5)
    value = grad.double()
    sign = value.gt(0).double() - value.lt(0).double()
    moved = pgd_step_(x.clone(), grad, x, 0.25, 0.125, targeted=False, backend=backend)
    torch.testing.assert_close(moved.double(), 0.5 + 0.125 * sign, rtol=0, atol=0)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0), (0, 255), (-INF, INF)], ids=str)
def test_linf_brings_images_into_any_bounds(backend: str, bounds: tuple[float, float], same_bits: SameBits) -> None:
    x = torch.tensor([[-1.0000001, 1.0000001, -3e-8, 0.0, -0.0, 255.0, 300.0, -7.0]])
    for offset in (-0.5, -0.0, 0.2):
        x_adv = x + offset
        grad = torch.tensor([[1.0, -1.0, 1.0, -1.0, 0.0, -1.0, -1.0, NAN]])
        expected = linf(x_adv, grad, x, 0.25, 0.125, True, bounds)
        moved = pgd_step_(x_adv, grad, x, 0.25, 0.125, bounds=bounds, backend=backend)
        same_bits(moved, expected)
        # Where ball and bounds do not meet, no value satisfies both, and the equation alone decides.
        meet = (x + 0.25 >= bounds[0]) & (x - 0.25 <= bounds[1])
        assert bool(((moved >= bounds[0]) & (moved <= bounds[1]))[meet].all())


floats = hnp.arrays(np.float32, (2, 9), elements=st.floats(0, 1, width=32))
gradients = hnp.arrays(np.float32, (2, 9), elements=st.floats(width=32))
radii = st.floats(0, 2, width=32)


@given(x_adv=floats, grad=gradients, x=floats, eps=radii, step=radii, targeted=st.booleans())
def test_linf_keeps_the_budget_for_any_numbers(
    backend: str, x_adv: np.ndarray, grad: np.ndarray, x: np.ndarray, eps: float, step: float, targeted: bool
) -> None:
    moved = pgd_step_(
        torch.from_numpy(x_adv.copy()), torch.from_numpy(grad), torch.from_numpy(x), eps, step, targeted=targeted,
        backend=backend,
    ).numpy()  # fmt: skip
    assert (moved >= np.maximum(x - np.float32(eps), 0)).all()
    assert (moved <= np.minimum(x + np.float32(eps), 1)).all()


@given(x_adv=floats, grad=gradients, x=floats, eps=radii, step=radii, targeted=st.booleans())
def test_l2_keeps_the_budget_for_any_numbers(
    backend: str, x_adv: np.ndarray, grad: np.ndarray, x: np.ndarray, eps: float, step: float, targeted: bool
) -> None:
    given_tensors = torch.from_numpy(x_adv.copy()), torch.from_numpy(grad), torch.from_numpy(x)
    expected = l2(*given_tensors, eps, step, targeted)
    moved = pgd_step_(*given_tensors, eps, step, targeted=targeted, norm="l2", backend=backend)
    torch.testing.assert_close(moved.double(), expected, rtol=1e-5, atol=1e-6)
    assert float((moved - given_tensors[2]).double().norm(dim=1).max()) <= eps + 1e-6
    assert bool(((moved >= 0) & (moved <= 1)).all())


@pytest.mark.parametrize("dtype", GRADS, ids=str)
def test_l2_survives_special_gradients(backend: str, dtype: torch.dtype) -> None:
    rows = [
        [0.0, -0.0, 0.0],  # no direction: only projected
        [NAN, 1.0, -1.0],
        [NAN, NAN, NAN],
        [INF, 0.0, 1.0],
        [INF, -INF, NAN],
        [3e38, -3e38, 3e38],  # squares overflow float32
        [1e-42, 0.0, -1e-42],
        [6e-8, 6e-8, -6e-8],
        [1e-20, 2e-20, 0.0],  # squares underflow float32
    ]
    grad = torch.tensor(rows).to(dtype)
    x = torch.full(grad.shape, 0.5)
    x_adv = x + torch.tensor([[0.3, 0.0, -0.3]])
    for eps in (0.25, 5.0):
        expected = l2(x_adv, grad, x, eps, 0.5, targeted=True, bounds=(-9, 9))
        moved = pgd_step_(x_adv.clone(), grad, x, eps, 0.5, norm="l2", bounds=(-9, 9), backend=backend)
        torch.testing.assert_close(moved.double(), expected, rtol=1e-5, atol=1e-6)


MAGNITUDES = [0.0, 1e-45, 1e-40, 1e-38, 1e-30, 1e-20, 1e-15, 1e-8, 1.0, 1e4, 1e15, 1e19, 1e20, 1e30, 1e38, 3e38]


def at_any_magnitude(n: int, d: int, generator: torch.Generator) -> Tensor:
    """Samples of one magnitude each, and of one for each element."""
    table = torch.tensor(MAGNITUDES, dtype=torch.float64)
    by_sample = table[torch.randint(len(table), (n, 1), generator=generator)]
    by_element = table[torch.randint(len(table), (n, d), generator=generator)]
    magnitude = torch.where(torch.rand(n, 1, generator=generator) < 0.5, by_sample, by_element)
    noise = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return (magnitude * noise).clamp(-3.4e38, 3.4e38).float()


@pytest.mark.parametrize("bounds", [(-INF, INF), (0.0, 1.0), (-1e38, 1e38)], ids=str)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_images_radii_and_steps_may_have_any_magnitude(
    backend: str, norm: str, bounds: tuple[float, float], same_bits: SameBits
) -> None:
    g = torch.Generator().manual_seed(7)
    x_adv, grad, x = (at_any_magnitude(2000, 3, g) for _ in range(3))
    x_adv[::3] = x[::3]
    eps, step = (at_any_magnitude(2000, 1, g)[:, 0].abs() for _ in range(2))
    moved = pgd_step_(x_adv.clone(), grad, x, eps, step, norm=norm, bounds=bounds, backend=backend)
    with np.errstate(all="ignore"):
        expected = (linf if norm == "linf" else l2)(x_adv, grad, x, eps.numpy(), step.numpy(), True, bounds)
    if norm == "linf":
        same_bits(moved, expected)
        return
    # float32 rounds with a sample's largest pixel, and with its largest move inside the ball.
    largest, farthest = (t.double().abs().amax(1) for t in (x, x_adv))
    scale = (largest + torch.minimum(eps.double(), farthest + step.double()))[:, None]
    wrong = (moved.double() - expected.float().double()).abs() > 1e-6 * scale + 1e-5 * expected.abs() + 1e-44
    assert not bool((wrong & (moved != expected.float())).any())


@pytest.mark.parametrize(("where", "value"), [("x_adv", INF), ("x", -INF), ("x_adv", NAN), ("x", NAN)])
def test_l2_makes_a_sample_with_a_pixel_that_is_not_finite_nan(backend: str, where: str, value: float) -> None:
    x_adv, grad, x = batch((3, 2, 5, 5))
    expected = pgd_step_(x_adv.clone(), grad, x, 0.5, 0.1, norm="l2", backend=backend)
    {"x_adv": x_adv, "x": x}[where][1, 1, 2, 3] = value
    moved = pgd_step_(x_adv, grad, x, 0.5, 0.1, norm="l2", backend=backend)
    assert bool(moved[1].isnan().all())
    torch.testing.assert_close(moved[[0, 2]], expected[[0, 2]], rtol=0, atol=0)


def test_a_float64_gradient_beyond_float32_counts_as_its_largest() -> None:
    x = torch.full((2, 3), 0.5, dtype=torch.float64)
    grad = torch.tensor([[1e300, 0.0, 0.0], [1e300, INF, 0.0]], dtype=torch.float64)
    moved = pgd_step_(x.clone(), grad, x, 1.0, 0.1, norm="l2")
    expected = torch.tensor([[0.4, 0.5, 0.5], [0.5 - 0.1 / 2**0.5, 0.5 - 0.1 / 2**0.5, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(moved, expected)


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


@pairwise(
    "layout", "threads", layout=LAYOUTS, dtype=GRADS, norm=("linf", "l2"), per_sample=(False, True), threads=(1, 3)
)
def test_model_input_is_the_normalised_image_to_the_last_bit(
    backend: str,
    layout: Layout,
    dtype: torch.dtype,
    norm: str,
    per_sample: bool,
    threads: int,
    same_bits: SameBits,
) -> None:
    x_adv, grad, x = (layout(t) for t in batch((5, 3, 37, 41)))
    eps: float | Tensor = torch.linspace(0, 0.5, 5) if per_sample else 0.1
    mean, std = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.247, 0.2435, 0.2616])
    without = pgd_step_(x_adv.clone(), grad, x, eps, 0.03, norm=norm, backend=backend)
    for normalise in (True, False):
        model_input = torch.empty_like(x_adv, dtype=dtype)
        moved = x_adv.clone()
        pgd_step_(
            moved, grad, x, eps, 0.03, norm=norm, model_input=model_input, backend=backend,
            mean=mean if normalise else None, std=std if normalise else None,
        )  # fmt: skip
        same_bits(moved, without)
        channel = (1, 3, 1, 1)
        expected = (moved - mean.view(channel)) / std.view(channel) if normalise else moved
        same_bits(model_input, expected.to(dtype))


@pytest.mark.parametrize(
    "shape", [(2, 5), (3, 1, 6, 7), (2, 4, 1, 1), (2, 1030, 3, 2), (3, 2, 7), (1, 2, 3, 4, 5)], ids=str
)
def test_dimension_one_is_the_channel_of_any_shape(backend: str, shape: tuple[int, ...], same_bits: SameBits) -> None:
    x_adv, grad, x = batch(shape)
    formats = [torch.contiguous_format, torch.channels_last] if len(shape) == 4 else [torch.contiguous_format]
    for memory_format in formats:
        ours, slope, clean = (t.contiguous(memory_format=memory_format) for t in (x_adv, grad, x))
        mean, std = torch.linspace(0, 1, shape[1]), torch.linspace(0.5, 2, shape[1])
        model_input = torch.empty_like(ours)
        pgd_step_(ours, slope, clean, 0.1, 0.1, model_input=model_input, mean=mean, std=std, backend=backend)
        channel = (1, -1, *[1] * (len(shape) - 2))
        same_bits(model_input, (ours - mean.view(channel)) / std.view(channel))


def test_one_channel_may_have_any_stride(backend: str, same_bits: SameBits) -> None:
    # PyTorch lets a dimension of size 1 carry any stride, zero too.
    x_adv, grad, x = (t.as_strided((4, 1, 5, 5), (25, 0, 5, 1)) for t in batch((4, 25)))
    model_input = torch.empty(100).as_strided((4, 1, 5, 5), (25, 0, 5, 1))
    pgd_step_(x_adv, grad, x, 0.1, 0.1, model_input=model_input, mean=[0.5], std=[0.25], backend=backend)
    same_bits(model_input, (x_adv - 0.5) / 0.25)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_model_input_rounds_as_pytorch_does(backend: str, dtype: torch.dtype, rng: np.random.Generator) -> None:
    bits = rng.integers(0, 2**32, 2**17, dtype=np.uint32)
    edges = [0.0, -0.0, 65504.0, 65519.996, 65520.0, 2**-24, 2**-25, 2**-25 * 1.0001, 2**-14, 6.1e-5, 3.4e38, INF, -INF]
    x = torch.cat([torch.from_numpy(bits.view(np.float32).copy()), torch.tensor(edges)])[None]
    model_input = torch.empty_like(x, dtype=dtype)
    pgd_step_(x.clone(), x, x, 0.0, 0.0, bounds=(-INF, INF), model_input=model_input, backend=backend)
    torch.testing.assert_close(model_input, x.to(dtype), rtol=0, atol=0, equal_nan=True)


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
