"""pgd_step_ on what hurts: zeros with a sign, NaN, infinities, numbers of any magnitude, any bounds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from steps_by_hand import GRADS, INF, NAN, batch, l2, linf
from torch import Tensor

from fairtat.ops import pgd_step_

SameBits = Callable[[Tensor, Tensor], None]


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
