"""The projection on a plane within the box, against scipy's solvers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fairtat.attacks.autoattack.projection import project_on_plane

optimize = pytest.importorskip("scipy.optimize")
LO, HI = 0.0, 1.0


def by_linear_program(p, w, c):
    """min t with -t <= d <= t, <w, d> = c, p + d in the box; None where there is no such point."""
    n = len(p)
    both = np.concatenate([np.eye(n), -np.eye(n)])
    solved = optimize.linprog(
        np.r_[np.zeros(n), 1.0],
        A_ub=np.c_[both, -np.ones(2 * n)],
        b_ub=np.zeros(2 * n),
        A_eq=np.r_[w, 0.0][None],
        b_eq=[c],
        bounds=[*zip(LO - p, HI - p, strict=True), (0, None)],
        method="highs",
    )
    return solved.x[:n] if solved.status == 0 else None


def by_quadratic_program(p, w, c):
    """min ||d||**2 likewise."""
    lo, hi = LO - p, HI - p
    size = np.abs(w).sum()
    if not np.minimum(w * lo, w * hi).sum() <= c <= np.maximum(w * lo, w * hi).sum():
        return None
    if size == 0:
        return np.zeros_like(p)
    solved = optimize.minimize(
        lambda d: d @ d,
        np.zeros_like(p),
        jac=lambda d: 2 * d,
        bounds=list(zip(lo, hi, strict=True)),
        constraints={"type": "eq", "fun": lambda d: (w @ d - c) / size, "jac": lambda d: w / size},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert solved.status in (0, 8), solved.message  # 8: no direction improves it further
    return solved.x


def cases(n, d, seed):
    """Points on the faces and inside, normals with zeros and of all sizes, planes near, far and out of reach."""
    rng = np.random.default_rng(seed)
    p = rng.random((n, d))
    p[rng.random((n, d)) < 0.2] = LO
    p[rng.random((n, d)) < 0.2] = HI
    w = rng.standard_normal((n, d)) * 10.0 ** rng.integers(-3, 2, (n, 1))
    w[rng.random((n, d)) < 0.2] = 0.0
    c = rng.standard_normal(n) * np.abs(w).sum(1) * rng.choice([0.0, 0.01, 0.2, 2.0], n)
    return p, w, c


@pytest.mark.parametrize("d", [1, 2, 7, 64])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_is_the_shortest_way_to_the_plane(norm, d):
    p, w, c = cases(60, d, seed=d)
    found = project_on_plane(*map(torch.from_numpy, (p, w, c)), norm, LO, HI).numpy()
    assert ((p + found >= LO - 1e-12) & (p + found <= HI + 1e-12)).all()
    outcomes = set()
    for i in range(60):
        expected = (by_linear_program if norm == "linf" else by_quadratic_program)(p[i], w[i], c[i])
        outcomes.add(expected is None)
        if expected is None:  # the corner that comes nearest to the plane
            corner = np.where(w[i] * c[i] > 0, HI - p[i], LO - p[i]) * (w[i] != 0)
            np.testing.assert_allclose(found[i], corner, atol=1e-12)
            continue
        scale = np.abs(w[i]).sum() or 1.0
        assert abs(w[i] @ found[i] - c[i]) <= 1e-9 * scale
        order = np.inf if norm == "linf" else 2
        # scipy's own solutions are good to about 1e-7.
        assert abs(np.linalg.norm(found[i], order) - np.linalg.norm(expected, order)) <= 1e-6
        if norm == "l2":  # whose solution is unique
            np.testing.assert_allclose(found[i], expected, atol=1e-5)
    assert outcomes == {True, False}


@pytest.mark.parametrize(("share", "error"), [(0.01, 1e-9), (0.5, 1e-9), (0.95, 1e-3), (0.9999, 1e-3)])
@pytest.mark.parametrize("draw", ["standard_normal", "standard_cauchy"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_an_image_ends_on_the_plane_or_close_to_the_corner_a_little_short(norm, draw, share, error):
    rng = np.random.default_rng(0)
    p, w = rng.random((100, 3072)), getattr(rng, draw)((100, 3072))
    p[rng.random(p.shape) < 0.3] = LO
    far = np.where(w > 0, w * (HI - p), w * (LO - p)).sum(1)
    found = project_on_plane(*map(torch.from_numpy, (p, w, share * far)), norm, LO, HI).numpy()
    reached = (w * found).sum(1) / (share * far)
    assert (1 - reached <= error).all()
    assert (reached <= 1 + 1e-12).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_float32_of_an_image_rounds_little(norm):
    p, w, c = cases(20, 3072, seed=1)
    single = project_on_plane(*(torch.from_numpy(a).float() for a in (p, w, c)), norm, LO, HI)
    double = project_on_plane(*(torch.from_numpy(a).float().double() for a in (p, w, c)), norm, LO, HI)
    torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_nothing_moves_without_a_gradient_or_a_way_to_go(norm):
    p = torch.rand(3, 5)
    w = torch.randn(3, 5)
    w[0] = 0
    c = torch.tensor([1.0, 0.0, 0.1])
    found = project_on_plane(p, w, c, norm, LO, HI)
    assert (found[:2] == 0).all()
    assert found[2].abs().sum() > 0
    assert project_on_plane(p[:0], w[:0], c[:0], norm, LO, HI).shape == (0, 5)


def test_infinite_bounds_bound_nothing():
    p, w = torch.zeros(1, 4), torch.tensor([[1.0, -2.0, 0.5, 0.5]])
    found = project_on_plane(p, w, torch.tensor([8.0]), "linf", -torch.inf, torch.inf)
    torch.testing.assert_close(found, torch.tensor([[2.0, -2.0, 2.0, 2.0]]))
    found = project_on_plane(p, w, torch.tensor([5.5]), "l2", -torch.inf, torch.inf)
    torch.testing.assert_close(found, w)
