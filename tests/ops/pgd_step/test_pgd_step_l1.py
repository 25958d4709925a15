"""pgd_step_ in L1: SLIDE's sparse step, and the nearest point in ball and bounds found by its breakpoints in numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from layouts import LAYOUTS
from pairwise import pairwise
from torch import Tensor

from fairtat import backends
from fairtat.ops import pgd_step_

GRADS = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(1, 1), (3, 7), (1, 3, 5, 5), (4, 3, 9, 7), (3, 3, 67, 33)]
LARGEST = float(np.finfo(np.float32).max)
INF, NAN = float("inf"), float("nan")
Bounds = tuple[float, float]


def projected(offset: np.ndarray, center: np.ndarray, eps: float, bounds: Bounds = (0.0, 1.0)) -> np.ndarray:
    """The nearest offset in the L1 ball for which center + offset is in the bounds, for one sample.

    It takes the same amount from each magnitude. The length that is left is linear between the amounts at which an
    element begins to shrink and at which it is gone, so the amount is found between two of these.
    """
    magnitude, sign = np.abs(offset), np.sign(offset)
    room = np.maximum(np.where(offset > 0, bounds[1] - center, center - bounds[0]), 0.0)
    begins = np.maximum(magnitude - room, 0.0)
    points = np.unique(np.concatenate([[0.0], begins[np.isfinite(begins)], magnitude]))

    def left(cut: float) -> np.ndarray:
        return np.minimum(np.maximum(magnitude - cut, 0.0), room)

    lengths = np.array([left(p).sum() for p in points])
    if lengths[0] <= eps:
        return sign * left(0.0)
    last = int(np.flatnonzero(lengths > eps)[-1])
    slope = (lengths[last + 1] - lengths[last]) / (points[last + 1] - points[last])
    return sign * left(points[last] + (eps - lengths[last]) / slope)


def stepped(
    x_adv: Tensor, grad: Tensor, x: Tensor, eps: Tensor, step: Tensor, kept: int, bounds: Bounds = (0.0, 1.0)
) -> Tensor:
    """The whole step in float64, sample by sample; positive steps descend."""
    out = np.empty((len(x), x[:1].numel()))
    for i in range(len(x)):
        a, g, c = (t[i].double().numpy().ravel() for t in (x_adv, grad, x))
        g = np.clip(np.nan_to_num(g, nan=0.0, posinf=LARGEST, neginf=-LARGEST), -LARGEST, LARGEST)
        s = np.where(np.abs(g) >= np.sort(np.abs(g))[-kept], np.sign(g), 0.0)
        v = a - float(step[i]) * s / max(np.abs(s).sum(), 1.0)
        out[i] = np.clip(c + projected(v - c, c, float(eps[i]), bounds), *bounds)
    return torch.from_numpy(out).view(x.shape)


def batch(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """Images with many pixels at the bounds, as real ones have."""
    g = torch.Generator().manual_seed(0)
    x = (torch.rand(shape, generator=g) * 1.4 - 0.2).clamp(0, 1)
    x_adv = (x + (torch.rand(shape, generator=g) - 0.5) * 0.1).clamp(0, 1)
    return x_adv, torch.randn(shape, generator=g).to(dtype), x


@pairwise(
    "threads", shape=SHAPES, dtype=GRADS, targeted=(True, False, None), eps=(0.0, 0.3, 5.0, None), layout=LAYOUTS,
    density=(1e-6, 0.05, 1.0), threads=(1, 3),
)  # fmt: skip
def test_the_step_is_the_nearest_point_to_the_sparse_step(
    backend: str, shape: tuple[int, ...], dtype: torch.dtype, targeted: bool | None, eps: float | None,
    layout: Callable[[Tensor], Tensor], density: float, threads: int,
) -> None:  # fmt: skip
    x_adv, grad, x = (layout(t) if t.ndim > 2 else t for t in batch(shape, dtype))
    n, elements = len(x), x[0].numel()
    towards = targeted if targeted is not None else torch.arange(n) % 2 == 0
    radii = torch.linspace(0.0, 6.0, n) if eps is None else torch.full((n,), eps)
    steps = torch.linspace(4.0, 0.5, n)
    signed = torch.where(torch.as_tensor(towards), steps, -steps)
    kept = max(1, round(density * elements))
    expected = stepped(x_adv, grad, x, radii, signed, kept)
    model_input, count = torch.empty_like(x, dtype=torch.bfloat16), torch.zeros(n, dtype=torch.int64)
    moved = pgd_step_(
        x_adv, grad, x, radii if eps is None else eps, steps, targeted=towards, norm="l1", density=density,
        model_input=model_input, zero_grad=count, backend=backend,
    )  # fmt: skip
    torch.testing.assert_close(moved.double(), expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(model_input, moved.bfloat16())
    assert not count.any()
    rounding = elements * 2.0**-24
    assert bool(((moved.double() - x.double()).abs().flatten(1).sum(1) <= radii.double() + rounding).all())


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0), (0.0, 255.0), (-INF, INF)], ids=str)
def test_no_point_in_ball_and_bounds_is_nearer(backend: str, bounds: Bounds) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(20, 12, generator=generator)
    far = x + torch.randn(20, 12, generator=generator)
    found = pgd_step_(far.clone(), torch.zeros_like(x), x, 1.5, 0.0, norm="l1", bounds=bounds, backend=backend).double()
    others = torch.randn(500, 20, 12, generator=generator, dtype=torch.float64)
    others = others / others.abs().sum(2, keepdim=True) * 1.5 * torch.rand(500, 20, 1, generator=generator)
    nearby = (found - x) + 0.01 * others  # and close to what was found, shrunk into the ball
    nearby = nearby * (1.5 / nearby.abs().sum(2, keepdim=True)).clamp_max(1.0)
    distance = (found - far).square().sum(1)
    for offsets in (others, nearby):
        candidates = x + offsets
        inside = ((candidates >= bounds[0]) & (candidates <= bounds[1])).all(2)
        assert bool(inside.any())
        apart = (candidates - far).square().sum(2)
        assert bool((apart[inside] >= (distance.expand(500, 20) - 1e-5)[inside]).all())


def test_the_projection_is_autoattacks() -> None:
    autopgd = pytest.importorskip("pyautoattack.autopgd_base")
    x_adv, _, x = batch((6, 3, 8, 8))
    x_adv = (x_adv + torch.randn(x.shape, generator=torch.Generator().manual_seed(2)) * 0.2).clamp(0, 1)
    expected = x_adv + autopgd.L1_projection(x, x_adv - x, 2.5)
    found = pgd_step_(x_adv.clone(), torch.zeros_like(x), x, 2.5, 0.0, norm="l1")
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5)


def test_equal_gradients_move_together_and_zeros_do_not(backend: str) -> None:
    x = torch.full((3, 8), 0.5)
    grad = torch.tensor([[2.0, -2, 2, 1, 0, 0, 0, 0], [0.0] * 8, [NAN, 3e38, INF, -1, 0, 0, 0, 0]])
    count = torch.zeros(3, dtype=torch.int64)
    moved = pgd_step_(
        x.clone(), grad, x, 9.0, 0.3, targeted=False, norm="l1", density=0.1, zero_grad=count, backend=backend
    )
    torch.testing.assert_close((moved - x)[0], torch.tensor([0.1, -0.1, 0.1, 0, 0, 0, 0, 0]), rtol=0, atol=1e-7)
    assert torch.equal(moved[1], x[1])
    torch.testing.assert_close((moved - x)[2], torch.tensor([0.0, 0, 0.3, 0, 0, 0, 0, 0]), rtol=0, atol=1e-7)
    assert count.tolist() == [0, 1, 0]


def test_momentum_chooses_the_elements(backend: str) -> None:
    x_adv, grad, x = batch((4, 30))
    velocity, along = torch.zeros_like(x), torch.zeros_like(x)
    for step in range(3):
        now = torch.roll(grad, step, 1)
        along = 0.9 * along + now / now.double().abs().sum(1, keepdim=True).float()
        expected = pgd_step_(x_adv.clone(), along, x, 2.0, 0.5, norm="l1", density=0.1, backend="reference")
        options = {"density": 0.1, "velocity": velocity, "momentum": 0.9, "backend": backend}
        pgd_step_(x_adv, now, x, 2.0, 0.5, norm="l1", **options)
        torch.testing.assert_close(x_adv, expected, rtol=1e-6, atol=1e-6)
        assert torch.equal(velocity, along)


def test_a_pixel_that_is_not_finite_makes_its_sample_nan(backend: str) -> None:
    x = torch.full((4, 6), 0.5)
    x_adv = x.clone()
    x_adv[1, 2], x_adv[2, 3] = NAN, INF
    moved = pgd_step_(x_adv, torch.ones_like(x), x, 1.0, 0.1, norm="l1", backend=backend)
    assert moved.isnan().all(1).tolist() == [False, True, True, False]
    assert moved.isnan().any(1).tolist() == [False, True, True, False]


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4)], ids=str)
def test_nothing_to_step(backend: str, shape: tuple[int, ...]) -> None:
    x = torch.empty(shape)
    assert pgd_step_(x.clone(), x, x.clone(), 1.0, 0.1, norm="l1", backend=backend).shape == shape


def test_float64_images_step_in_their_precision() -> None:
    x_adv, grad, x = (t.double() for t in batch((4, 3, 5, 5)))
    expected = stepped(x_adv, grad, x, torch.full((4,), 1.5), torch.full((4,), 0.75), 4)
    moved = pgd_step_(x_adv, grad, x, 1.5, 0.75, norm="l1", density=0.05)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("density", "error"), [
    (0.0, ValueError), (1.1, ValueError), (-0.1, ValueError), (NAN, ValueError), ("some", TypeError), (True, TypeError),
])  # fmt: skip
def test_a_density_is_a_share(density: object, error: type[Exception]) -> None:
    x = torch.full((2, 3), 0.5)
    with pytest.raises(error, match=r"density must be (a number|in \(0, 1\]), got"):
        pgd_step_(x.clone(), x, x.clone(), 1.0, 0.1, norm="l1", density=density)


def test_gpu_kernels_leave_it_to_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_missing", lambda name, index=None: None)
    device = torch.device("cuda")
    assert backends.choose("pgd_step", device, torch.float32, form="linf") in ("cuda", "triton")
    assert backends.choose("pgd_step", device, torch.float32, form="l1") == "reference"
    with pytest.raises(
        ValueError, match="backend='triton' cannot run pgd_step here: it has no kernel for l1; use backend"
    ):
        backends.choose("pgd_step", device, torch.float32, "triton", form="l1")
