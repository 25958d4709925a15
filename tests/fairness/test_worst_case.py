"""FAAL's inner problem against scipy's solvers and by its equations in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fairtat.fairness import worst_class_weight, worst_distribution

optimize = pytest.importorskip("scipy.optimize")


def divergence(q: np.ndarray) -> float:
    """KL(u || q)."""
    return float(-math.log(len(q)) - np.log(q).mean())


@pytest.mark.parametrize("radius", [1e-3, 0.1, 0.5, 2.0])
@pytest.mark.parametrize("classes", [2, 3, 10, 37])
def test_no_distribution_in_the_ball_is_worse(classes: int, radius: float) -> None:
    """The primal problem as it stands, by sequential quadratic programming over log q."""
    score = np.random.default_rng(classes).normal(size=classes)
    q = worst_distribution(torch.tensor(score), radius).numpy()
    assert q.sum() == pytest.approx(1, abs=1e-12)
    assert divergence(q) == pytest.approx(radius, rel=1e-8)
    solved = optimize.minimize(
        lambda v: -np.exp(v) @ score,
        np.full(classes, -math.log(classes)),
        jac=lambda v: -np.exp(v) * score,
        constraints=[
            {"type": "eq", "fun": lambda v: np.exp(v).sum() - 1, "jac": np.exp},
            {
                "type": "ineq",
                "fun": lambda v: radius + math.log(classes) + v.mean(),
                "jac": lambda v: np.full(classes, 1 / classes),
            },
        ],
        method="SLSQP",
        options={"maxiter": 1000, "ftol": 1e-14},
    )
    assert q @ score == pytest.approx(-solved.fun, abs=1e-6)
    np.testing.assert_allclose(q, np.exp(solved.x), atol=1e-4)


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_lagranges_conditions_hold_to_rounding(classes: int) -> None:
    """1 / q_c is affine in a_c, with one slope and one intercept for all classes; scipy finds nu by Brent's method."""
    score = 5 * np.random.default_rng(7).normal(size=classes)
    q = worst_distribution(torch.tensor(score), 0.5).numpy()

    def by_nu(gap: float) -> np.ndarray:
        raw = 1 / (score.max() - score + gap)
        return raw / raw.sum()  # type: ignore[no-any-return]

    logarithm = optimize.brentq(lambda t: divergence(by_nu(math.exp(t))) - 0.5, -40, 20, xtol=1e-14, rtol=1e-14)
    np.testing.assert_allclose(q, by_nu(math.exp(logarithm)), rtol=1e-9)


def test_limits() -> None:
    score = torch.tensor([0.3, -1.0, 2.0, 0.3], dtype=torch.float64)
    uniform = torch.full((4,), 0.25, dtype=torch.float64)
    assert torch.equal(worst_distribution(score, 0.0), uniform)
    assert torch.equal(worst_distribution(torch.zeros(4), 0.5), uniform)  # nothing is worse than anything else
    wide = worst_distribution(score, 50.0)
    assert wide[2] == pytest.approx(1.0, abs=1e-12)
    assert (wide > 0).all()
    assert worst_distribution(score[:1], 0.5).tolist() == [1.0]
    two = worst_distribution(torch.tensor([1.0, 1.0, 0.0]), 0.5)  # a tie at the top shares alike
    assert two[0] == two[1]
    assert divergence(two.numpy()) == pytest.approx(0.5, rel=1e-8)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_only_differences_relative_to_each_other_matter(scale: float) -> None:
    score = torch.tensor([0.3, -1.0, 2.0, 0.1], dtype=torch.float64)
    expected = worst_distribution(score, 0.5)
    torch.testing.assert_close(worst_distribution(score * scale + 3 * scale, 0.5), expected, rtol=1e-3, atol=0)


def test_classes_that_are_absent_have_no_share() -> None:
    score = torch.tensor([0.3, 9.0, -1.0, 2.0, -9.0], dtype=torch.float64)
    present = torch.tensor([True, False, True, True, False])
    q = worst_distribution(score, 0.5, present)
    assert q[~present].tolist() == [0.0, 0.0]
    torch.testing.assert_close(q[present], worst_distribution(score[present], 0.5), rtol=1e-12, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_not_finite_is_not_hidden(bad: float) -> None:
    assert worst_distribution(torch.tensor([0.0, bad, 1.0]), 0.5).isnan().any()


@pytest.mark.parametrize("radius", [-0.1, float("nan"), float("inf")])
def test_a_radius_out_of_range(radius: float) -> None:
    with pytest.raises(ValueError, match="radius must be finite and >= 0"):
        worst_distribution(torch.zeros(3), radius)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_weights_of_a_batch_by_loops(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = (2 * torch.randn(33, 6, generator=generator)).to(dtype)
    y = torch.randint(5, (33,), generator=generator)  # class 5 is absent
    y[y == 3] = 2  # and so is class 3
    score = [0.0] * 6
    for row, label in zip(logits.double().numpy(), y.tolist(), strict=True):
        p = np.exp(row) / np.exp(row).sum()
        score[label] += max(p[k] for k in range(6) if k != label) - p[label]
    classes = [0, 1, 2, 4]
    q = worst_distribution(torch.tensor([score[c] for c in classes]).double(), 0.5)
    expected = [4 * float(q[classes.index(label)]) for label in y.tolist()]
    weight = worst_class_weight(logits, y, 0.5)
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, torch.tensor(expected), rtol=1e-4, atol=1e-6)


def test_weights_at_the_edges() -> None:
    logits = torch.randn(8, 4, generator=torch.Generator().manual_seed(2), requires_grad=True)
    y = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    assert worst_class_weight(logits, y, 0.0).tolist() == [1.0] * 8
    assert not worst_class_weight(logits, y, 0.5).requires_grad
    assert worst_class_weight(logits[:0], y[:0], 0.5).shape == (0,)
    assert worst_class_weight(logits[:1], y[:1], 0.5).tolist() == [1.0]
