"""DeepFool: every step against a loop of its own, closed forms, and peers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fairtat.attacks import deepfool

HALF_THE_DIGITS = 1e-7
TINY = 1e-4  # by how much each step goes beyond the boundary


def textbook_deepfool(evaluate, x, y, classes, *, norm, n_iter, overshoot, goal=None):
    """The first point of another class (of the goal), or None; ``evaluate``: point -> (logits, Jacobian)."""
    total, now = np.zeros_like(x), x
    for _ in range(n_iter + 1):
        z, jacobian = evaluate(now)
        if (z.argmax() != y) if goal is None else (z.argmax() == goal):
            return now
        differences = [(z[k] - z[y], jacobian[k] - jacobian[y]) for k in classes]
        dual = 1 if norm == "linf" else 2
        f, w = min(differences, key=lambda each: abs(each[0]) / np.linalg.norm(each[1], dual))
        direction = np.sign(w) if norm == "linf" else w / np.linalg.norm(w)
        total = total + (abs(f) / np.linalg.norm(w, dual) + TINY) * direction
        now = np.clip(x + (1 + overshoot) * total, 0, 1)
    return None


@pytest.mark.parametrize(
    ("norm", "engine", "targeted"),
    [
        ("linf", "eager", False),
        ("l2", "eager", True),
        ("l2", "compiled", False),
        ("linf", "graph", False),
        pytest.param("linf", "compiled", True, marks=pytest.mark.slow),
    ],
)
def test_every_step_is_that_of_the_paper(smooth, compiles, stub, norm, engine, targeted):
    model, evaluate, x, z = smooth
    y, likely = z.argmax(1), z.argsort(dim=1, descending=True)
    goal = likely[:, 1] if targeted else None
    options = {"norm": norm, "n_iter": 6, "overshoot": 0.03}
    result = deepfool(model, x, y, target=goal, nb_candidates=3, engine=engine, return_info=True, **options)
    assert compiles == ([7] if engine == "compiled" else [])

    for i in range(7):
        towards = None if goal is None else int(goal[i])
        classes = [towards] if targeted else likely[i, 1:3].tolist()
        expected = textbook_deepfool(evaluate, x[i].numpy().ravel(), int(y[i]), classes, goal=towards, **options)
        assert result.reached[i] == (expected is not None)
        expected = x[i].numpy().ravel() if expected is None else expected
        np.testing.assert_allclose(result.x_adv[i].numpy().ravel(), expected, atol=HALF_THE_DIGITS)
    assert result.reached.sum() >= 4


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_on_an_affine_model_the_distance_is_the_closed_form(affine, norm, targeted):
    model, x, y, distance, goal = affine(norm)
    result = deepfool(model, x, y, norm=norm, target=goal if targeted else None, overshoot=0.05, return_info=True)
    assert result.reached.all()
    found = (result.x_adv - x).flatten(1).norm(p=torch.inf if norm == "linf" else 2, dim=1)
    torch.testing.assert_close(found, 1.05 * (distance + TINY), rtol=1e-9, atol=0)
    assert (result.steps <= 3).all()


def test_a_radius_bounds_what_counts(trained):
    model, x, y = trained
    anywhere = deepfool(model, x, y, norm="linf", return_info=True)
    distance = (anywhere.x_adv - x).flatten(1).abs().amax(1)
    within = deepfool(model, x, y, norm="linf", eps=0.1, return_info=True)
    assert anywhere.reached.all()
    assert 0 < within.reached.sum() < len(x)
    assert torch.equal(within.reached, distance <= 0.1)
    assert torch.equal(within.x_adv[~within.reached], x[~within.reached])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_it_is_foolbox_s(trained, norm):
    foolbox = pytest.importorskip("foolbox")
    model, x, y = trained
    result = deepfool(model, x, y, norm=norm, nb_candidates=4, return_info=True)
    peer = {"linf": foolbox.attacks.LinfDeepFoolAttack, "l2": foolbox.attacks.L2DeepFoolAttack}[norm]
    _, expected, fooled = peer(candidates=4)(foolbox.PyTorchModel(model, bounds=(0, 1)), x, y, epsilons=None)
    assert result.reached.sum() >= fooled.sum() > 100
    # The same steps: what rounds differently is the sum of up to 50 of them.
    torch.testing.assert_close(result.x_adv[fooled], expected[fooled], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_it_is_no_weaker_than_others(trained):
    torchattacks = pytest.importorskip("torchattacks")
    model, x, y = (each[:16] if isinstance(each, torch.Tensor) else each for each in trained)
    ours, theirs = deepfool(model, x, y), torchattacks.DeepFool(model)(x, y)
    right = model(x).argmax(1) == y
    sizes = []
    for found in (ours, theirs):
        assert (model(found).argmax(1) != y).all()
        sizes.append((found - x)[right].flatten(1).norm(dim=1).mean().item())
    # A step is TINY longer than the peer's, and most images take 3.
    assert sizes[0] <= sizes[1] + 4 * TINY
