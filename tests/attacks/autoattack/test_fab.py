"""FAB: every step against a loop of its own, closed forms, and what it promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pairwise import pairwise
from torch import nn

from fairtat.attacks import fab
from fairtat.attacks.autoattack import fab_steps
from fairtat.attacks.autoattack.fab_steps import FABSteps, Rates

DTYPE = torch.float64
HALF_THE_DIGITS = 1e-7


def shortest_way(p, w, c, norm):
    """d of least norm with <w, d> = c and p + d in [0, 1], by bisection on the one number that it depends on."""
    direction = np.sign(w) * np.sign(c)
    gap = np.where(direction > 0, 1 - p, p)

    def move(t):
        return direction * np.minimum(t if norm == "linf" else t * np.abs(w), gap)

    low, high = 0.0, 1e9
    for _ in range(200):
        t = (low + high) / 2
        low, high = (t, high) if abs(w @ move(t)) < abs(c) else (low, t)
    return move(high)


def textbook_fab(evaluate, x, *, norm, n_iter, alpha_max=0.1, eta=1.05, beta=0.9):
    """The nearest point and its distance; ``evaluate``: point -> (difference of logits, gradient, adversarial)."""

    def size(v):
        return np.abs(v).max() if norm == "linf" else np.sqrt((v**2).sum())

    now, nearest, distance = x, None, np.inf
    for _ in range(n_iter):
        f, w, _ = evaluate(now)
        d = shortest_way(now, w, -f, norm)
        d0 = shortest_way(x, w, -f + w @ (now - x), norm)
        a, a0 = max(size(d), 1e-8), max(size(d0), 1e-8)
        alpha = min(a / (a + a0), alpha_max)
        now = np.clip((1 - alpha) * (now + eta * d) + alpha * (x + eta * d0), 0, 1)
        if evaluate(now)[2]:
            if size(now - x) < distance:
                nearest, distance = now, size(now - x)
            now = x + beta * (now - x)
    return nearest, distance


@pairwise(engine=["eager", "compiled", "graph", "compiled_graph"], norm=["linf", "l2"], nearest_class=[False, True])
def test_every_step_is_that_of_the_paper(h, compiles, stub, open_arena, engine, norm, nearest_class):
    model, (x, _, _) = h.cnn(DTYPE).eval(), h.images(6, DTYPE)
    with torch.no_grad():
        y = model(x).argmax(1)
    target, n_iter = (y + 1) % h.classes, 12

    def evaluate(i, flat):
        point = torch.from_numpy(flat).view(1, *x.shape[1:]).requires_grad_()
        z = model(point)[0]

        def towards(k):
            difference = z[k] - z[y[i]]
            (grad,) = torch.autograd.grad(difference, point, retain_graph=True)
            return difference.item(), grad.numpy().ravel()

        if not nearest_class:
            best = towards(target[i])
        else:
            both = [towards(k) for k in range(h.classes) if k != y[i]]
            order = 1 if norm == "linf" else 2
            best = min(both, key=lambda each: abs(each[0]) / np.linalg.norm(each[1], order))
        return *best, z.argmax().item() != y[i]

    with open_arena(model, x, y, norm=norm, engine=engine) as here:
        goal = y if nearest_class else target
        columns = fab_steps.start(here, torch.arange(6), goal, 5, at_random=False)
        for _ in range(5):
            steps = FABSteps(here, columns, 5, n_iter=n_iter, rates=Rates(), nearest_class=nearest_class)
            columns = {**columns, **here.run(steps)}
    assert (columns["step"] == 25).all()  # of which those after the twelfth count for nothing
    assert compiles == ([6] if "compiled" in engine else [])
    found = 0
    for i in range(6):
        nearest, distance = textbook_fab(
            lambda flat, i=i: evaluate(i, flat), x[i].numpy().ravel(), norm=norm, n_iter=n_iter
        )
        if nearest is None:
            assert columns["distance"][i] == torch.inf
            continue
        found += 1
        np.testing.assert_allclose(columns["distance"][i].item(), distance, atol=HALF_THE_DIGITS)
        np.testing.assert_allclose(columns["x_found"][i].numpy().ravel(), nearest, atol=HALF_THE_DIGITS)
    assert found >= 4


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(("norm", "order"), [("linf", 1), ("l2", 2)])
def test_on_a_linear_model_it_finds_what_the_closed_form_says(norm, order, targeted):
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double()
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(3, 12, generator=generator))
        model[1].bias.copy_(-0.5 * model[1].weight.sum(1))
    x = 0.3 + 0.4 * torch.rand(200, 1, 3, 4, generator=generator, dtype=DTYPE)
    weight, bias = model[1].weight.detach(), model[1].bias.detach()
    z = x.flatten(1) @ weight.t() + bias
    y = z.argmax(1)
    gap = z.gather(1, y[:, None]) - z
    reach = torch.stack([(weight[y] - weight[k]).norm(p=order, dim=1) for k in range(3)], 1)
    distance = (gap / reach).scatter(1, y[:, None], torch.inf).amin(1)
    near = distance < 0.25  # so that no pixel meets its bounds
    x, y, distance = x[near], y[near], distance[near]
    assert len(x) > 20
    result = fab(model, x, y, eps=1.06 * distance, norm=norm, targeted=targeted, n_iter=5, return_info=True)
    assert result.reached.all()
    assert not fab(
        model, x, y, eps=0.99 * distance, norm=norm, targeted=targeted, n_iter=5, return_info=True
    ).reached.any()


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.6)])
def test_an_example_is_adversarial_and_in_the_ball(trained, norm, eps, targeted):
    model, x, y = trained
    result = fab(model, x, y, eps=eps, norm=norm, targeted=targeted, n_iter=10, n_restarts=2, return_info=True)
    with torch.no_grad():
        clean, fooled = model(x).argmax(1) != y, model(result.x_adv).argmax(1) != y
    assert torch.equal(result.reached, fooled)
    assert clean.sum() < fooled.sum() < len(x)
    delta = (result.x_adv - x).flatten(1)
    size = delta.abs().amax(1) if norm == "linf" else delta.norm(dim=1)
    assert size.max() <= eps * (1 + 1e-6)
    assert 0 <= result.x_adv.min() <= result.x_adv.max() <= 1
    assert torch.equal((result.x_adv == x).flatten(1).all(1), ~fooled | clean)


def test_a_sample_does_not_depend_on_its_batch(trained):
    model, x, y = trained
    x, y, ids = x[:30], y[:30], 50 + torch.arange(30)
    keywords = {"eps": 0.12, "n_iter": 8, "n_restarts": 2, "seed": 3}
    model = model.double()
    expected = fab(model, x.double(), y, sample_ids=ids, **keywords)
    order = torch.randperm(30)
    found = fab(model, x[order].double(), y[order], sample_ids=ids[order], chunk_size=7, **keywords)
    model.float()
    torch.testing.assert_close(found, expected[order], rtol=0, atol=1e-9)


def test_a_model_without_gradients_stays_where_it_is(trained):
    model, x, y = trained

    def signs(x):
        return model(x.sign() + 0 * x)

    result = fab(signs, x[:10], y[:10], targeted=True, n_iter=3, return_info=True)
    assert torch.equal(result.x_adv, x[:10])
