"""CW-L2: every step against a loop of its own, a closed form, and a peer."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from fairtat.attacks import cw_l2

HALF_THE_DIGITS = 1e-7


def textbook_cw(
    evaluate, x, y, *, goal, bounds, n_iter, binary_search_steps, initial_const, confidence, learning_rate, abort_early
):
    """The nearest point found, or None; ``evaluate``: point -> (logits, Jacobian)."""
    lo, hi = bounds
    mid, half = (lo + hi) / 2, (hi - lo) / 2
    first = np.arctanh(0.999999 * (x - mid) / half)
    nearest, distance, lower, upper, c = None, np.inf, 0.0, np.inf, initial_const
    for _ in range(binary_search_steps):
        w, m, v = first, np.zeros_like(x), np.zeros_like(x)
        before, succeeded, nearer_since = np.inf, False, False
        for k in range(n_iter):
            point = mid + half * np.tanh(w)
            z, jacobian = evaluate(point)
            others = [j for j in range(len(z)) if j != (y if goal is None else goal)]
            best = others[np.argmax(z[others])]
            plus, minus = (best, y) if goal is None else (goal, best)  # the margin is z_plus - z_minus
            margin = z[plus] - z[minus]
            away = np.linalg.norm(point - x)
            if margin >= confidence and margin > 0:
                succeeded = True
                if away < distance:
                    nearest, distance, nearer_since = point, away, True
            cost = away**2 + c * max(0.0, confidence - margin)
            if abort_early and k % math.ceil(n_iter / 10) == 0:
                if not nearer_since and not cost < before:
                    break
                before, nearer_since = cost, False
            slope = 2 * (point - x)
            if margin < confidence:
                slope = slope - c * (jacobian[plus] - jacobian[minus])
            slope = slope * half * (1 - np.tanh(w) ** 2)
            m, v = 0.9 * m + 0.1 * slope, 0.999 * v + 0.001 * slope**2
            w = w - learning_rate * (m / (1 - 0.9 ** (k + 1))) / (np.sqrt(v / (1 - 0.999 ** (k + 1))) + 1e-8)
        lower, upper = (lower, c) if succeeded else (c, upper)
        c = 10 * c if upper == np.inf else (lower + upper) / 2
    return nearest


@pytest.mark.parametrize(
    ("engine", "targeted", "confidence", "abort_early"),
    [
        ("eager", False, 0.3, True),
        pytest.param("compiled", False, 0.3, True, marks=pytest.mark.slow),
        ("graph", True, 0.0, False),
    ],
)
def test_every_step_is_that_of_the_paper(smooth, compiles, stub, engine, targeted, confidence, abort_early):
    model, evaluate, x, z = smooth
    y, goal = z.argmax(1), z.argsort(dim=1)[:, -2] if targeted else None
    options = {
        "n_iter": 23, "binary_search_steps": 4, "initial_const": 0.02, "confidence": confidence,
        "learning_rate": 0.03, "abort_early": abort_early, "bounds": (-0.5, 1.5),
    }  # fmt: skip
    result = cw_l2(model, x, y, target=goal, engine=engine, return_info=True, **options)
    assert set(compiles) <= {7, 4, 2}
    assert bool(compiles) == (engine == "compiled")

    for i in range(7):
        towards = None if goal is None else int(goal[i])
        expected = textbook_cw(evaluate, x[i].numpy().ravel(), int(y[i]), goal=towards, **options)
        assert result.reached[i] == (expected is not None)
        expected = x[i].numpy().ravel() if expected is None else expected
        np.testing.assert_allclose(result.x_adv[i].numpy().ravel(), expected, atol=HALF_THE_DIGITS)
    assert result.reached.sum() >= 4


@pytest.mark.parametrize("confidence", [0.0, 0.2])
def test_on_an_affine_model_it_comes_close_to_the_closed_form(affine, confidence):
    # Two classes: with more, the objective has a minimum of its own towards each.
    model, x, y, distance, _ = affine("l2", classes=2, confidence=confidence)
    rate = 0.005
    result = cw_l2(
        model, x, y, n_iter=100, binary_search_steps=4, initial_const=0.1, confidence=confidence, learning_rate=rate,
        return_info=True,
    )  # fmt: skip
    assert result.reached.all()
    found = (result.x_adv - x).flatten(1).norm(dim=1)
    assert (found >= distance * (1 - 1e-9)).all()  # there is nothing nearer
    # Adam moves w by about the rate at each step, and so a pixel by half of it: it comes nearer than half of that.
    assert (found <= distance + rate / 4).all()


def test_the_search_with_a_radius_ends_within_it(trained):
    model, x, y = (each[:40] if isinstance(each, torch.Tensor) else each for each in trained)
    options = {"n_iter": 40, "binary_search_steps": 3, "initial_const": 1.0, "return_info": True}
    nearest, within = cw_l2(model, x, y, **options), cw_l2(model, x, y, eps=0.6, **options)
    distance = (nearest.x_adv - x).flatten(1).norm(dim=1)
    assert 0 < within.reached.sum() < len(x)
    assert torch.equal(within.reached, nearest.reached & (distance <= 0.6))
    assert ((within.x_adv - x).flatten(1).norm(dim=1) <= 0.6).all()
    assert within.steps.sum() < nearest.steps.sum()


@pytest.mark.slow
def test_it_finds_what_foolbox_finds(trained):
    foolbox = pytest.importorskip("foolbox")
    model, x, y = (each[:24] if isinstance(each, torch.Tensor) else each for each in trained)
    result = cw_l2(model, x, y, n_iter=100, binary_search_steps=4, initial_const=0.1, return_info=True)
    peer = foolbox.attacks.L2CarliniWagnerAttack(steps=100, binary_search_steps=4, initial_const=0.1, abort_early=False)
    _, expected, fooled = peer(foolbox.PyTorchModel(model, bounds=(0, 1)), x, y, epsilons=None)
    ours, theirs = ((found - x).flatten(1).norm(dim=1) for found in (result.x_adv, expected))
    assert result.reached[fooled].all()
    assert fooled.sum() > 20
    # The peer makes all steps; ours ends a search of which a tenth brings nothing.
    assert ours[fooled].mean() <= 1.01 * theirs[fooled].mean()
    every = cw_l2(
        model, x, y, n_iter=100, binary_search_steps=4, initial_const=0.1, abort_early=False, return_info=True
    )
    # The same steps up to rounding, which 400 of them on ReLUs enlarge.
    torch.testing.assert_close((every.x_adv - x).flatten(1).norm(dim=1)[fooled], theirs[fooled], rtol=5e-3, atol=0)


def test_a_pixel_at_its_bound_can_move():
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[4.0, 0.0], [0.0, 0.0]]))
        model[1].bias.copy_(torch.tensor([-3.0, 0.0]))
    x, y = torch.tensor([[[[1.0, 0.5]]]]), torch.tensor([0])
    x_adv = cw_l2(model, x, y, n_iter=80, binary_search_steps=3, initial_const=0.1, learning_rate=0.2)
    torch.testing.assert_close(x_adv, torch.tensor([[[[0.75, 0.5]]]]), rtol=0, atol=0.2 / 4)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"binary_search_steps": 0}, ValueError, "binary_search_steps must be at least 1, got 0"),
        ({"confidence": -1.0}, ValueError, "confidence must be finite"),
        ({"initial_const": 0.0}, ValueError, "initial_const must be positive, got 0.0"),
        ({"learning_rate": "fast"}, TypeError, "learning_rate must be a real number"),
        ({"abort_early": 1}, TypeError, "abort_early must be"),
        ({"bounds": (-math.inf, math.inf)}, ValueError, "bounds of cw_l2 must be finite"),
        ({"norm": "linf"}, TypeError, "'norm' is not an option of the attack"),
        ({"eps": -0.1}, ValueError, "eps must be finite and at least 0"),
    ],
)
def test_bad_input_is_one_clear_error(h, changes, error, message):
    model, (x, y, _) = h.cnn(), h.images(6)
    with pytest.raises(error, match=message):
        cw_l2(model, x, y, **changes)
