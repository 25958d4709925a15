"""APGD: the schedule and every step against a loop of its own, and what the attack promises."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from pairwise import pairs

from fairtat.attacks import apgd, fast_pgd
from fairtat.attacks.autoattack import apgd_steps
from fairtat.attacks.autoattack.apgd_steps import APGDSteps, attack_loss
from fairtat.engines.samples import Span

LOSSES = ["ce", "dlr", "dlr-targeted"]
DTYPE = torch.float64  # in which engines that sum in another order agree
HALF_THE_DIGITS = 1e-7  # in which trajectories agree after 30 steps that each round


def checkpoints_of(n_iter):
    """The steps after which the step size is looked at: shares of n_iter, each gap 3% shorter, at least 6%."""
    found, gap = [], max(int(0.22 * n_iter), 1)
    while sum(found) + gap <= n_iter:
        found.append(gap)
        gap = max(gap - max(int(0.03 * n_iter), 1), int(0.06 * n_iter), 1)
    return np.cumsum(found).tolist()


def size_of(v, norm):
    flat = v.reshape(len(v), -1)
    length = np.abs(flat).max(1) if norm == "linf" else np.sqrt((flat**2).sum(1))
    return length.reshape(-1, *[1] * (v.ndim - 1))


def projected(z, x, eps, norm):
    if norm == "linf":
        return np.clip(np.clip(z, x - eps, x + eps), 0, 1)
    size = size_of(z - x, norm)
    return np.clip(x + (z - x) * np.minimum(1, eps / np.maximum(size, 1e-300)), 0, 1)


def textbook_apgd(evaluate, start, x, *, eps, norm, n_iter, rho, checkpoints):
    """APGD sample by sample, with the losses of all steps in a list; ``evaluate``: x -> (loss, wrong, gradient)."""
    results = []
    for i in range(len(x)):
        xi = x[i : i + 1]
        now = start[i : i + 1]
        loss, wrong, grad = evaluate(now, i)
        step, old, losses = 2 * eps, now, [loss]
        best, best_grad, best_loss = now, grad, loss
        found = now if wrong else None
        last_check, loss_then, halved_then = 0, best_loss, True
        for k in range(1, n_iter + 1):
            direction = np.sign(grad) if norm == "linf" else grad / (size_of(grad, "l2") + 1e-12)
            z = projected(now + step * direction, xi, eps, norm)
            share = 1.0 if k == 1 else 0.75
            moved = projected(now + share * (z - now) + (1 - share) * (now - old), xi, eps, norm)
            old, now = now, moved
            loss, wrong, grad = evaluate(now, i)
            losses.append(loss)
            if wrong:
                found = now
            if loss > best_loss:
                best, best_grad, best_loss = now, grad, loss
            if k in checkpoints:
                window = losses[last_check : k + 1]
                rises = sum(b > a for a, b in pairwise(window))
                halve = rises <= rho * (k - last_check) or (not halved_then and loss_then >= best_loss)
                if halve:
                    step, now, grad = step / 2, best, best_grad
                last_check, loss_then, halved_then = k, best_loss, halve
        results.append((best, best_loss, step, found))
    return results


@pytest.mark.parametrize(
    ("engine", "loss", "norm"), pairs(["eager", "compiled", "graph", "compiled_graph"], LOSSES, ["linf", "l2"])
)
def test_every_step_is_that_of_the_paper(h, compiles, stub, open_arena, engine, loss, norm):
    eps = 0.05 if norm == "linf" else 0.4
    model, (x, y, target) = h.cnn(DTYPE).eval(), h.images(9, DTYPE)
    n_iter, rho = 30, 0.75

    def evaluate(point, i):
        point = torch.from_numpy(point).requires_grad_()
        z = model(point)
        if loss == "dlr-targeted":
            value = -h.loss_value("dlr", z, target[i : i + 1], y[i : i + 1])
        else:
            value = h.loss_value(loss, z, y[i : i + 1])
        (grad,) = torch.autograd.grad(value.sum(), point)
        return value.item(), z.argmax(1).item() != y[i], grad.numpy()

    with open_arena(model, x, y, eps=eps, norm=norm, engine=engine) as here:
        rows = torch.arange(len(x))
        columns = apgd_steps.start(here, rows, target, 5, n_iter)
        start = columns["x_adv"].numpy().copy()
        for _ in range(4):  # the attack pauses, and takes looks beyond the last one that counts
            steps = APGDSteps(here, columns, 8, loss=loss, n_iter=n_iter, rho=rho, eot_iter=1)
            columns = {**columns, **here.run(steps)}
    assert compiles == ([9] if "compiled" in engine else [])
    assert (stub.captures > 0) == ("graph" in engine)
    checkpoints = checkpoints_of(n_iter)
    expected = textbook_apgd(
        evaluate, start, x.numpy(), eps=eps, norm=norm, n_iter=n_iter, rho=rho, checkpoints=checkpoints
    )
    halvings = set()
    for i, (best, best_loss, _, found) in enumerate(expected):
        np.testing.assert_allclose(columns["x_best"][i : i + 1].numpy(), best, rtol=0, atol=HALF_THE_DIGITS)
        np.testing.assert_allclose(columns["best_loss"][i].item(), best_loss, rtol=HALF_THE_DIGITS)
        assert bool(columns["found"][i]) == (found is not None)
        if found is not None:
            np.testing.assert_allclose(columns["x_found"][i : i + 1].numpy(), found, rtol=0, atol=HALF_THE_DIGITS)
        halvings.add(round(float(torch.log2(2 * eps / columns["step_size"][i]))))
    assert len(halvings) > 1  # the samples' schedules differ


@pytest.mark.parametrize("n_iter", [100, 37])
@pytest.mark.parametrize("rho", [0.75, 0.4])
def test_the_step_halves_where_losses_given_by_hand_say_so(h, open_arena, n_iter, rho):
    """Losses that climb, stand still, fall and jump: each step's size by the paper's two conditions."""
    model, (x, y, _) = h.cnn().eval(), h.images(40)
    generator = np.random.default_rng(0)
    climbs = generator.random((40, 1)) ** 0.3
    losses = np.cumsum(np.where(generator.random((40, n_iter + 1)) < climbs, 1.0, -1.0), 1)
    losses[::5, n_iter // 2 :] = losses[::5, n_iter // 2 : n_iter // 2 + 1]
    with open_arena(model, x, y, eps=0.1) as here:
        columns = apgd_steps.start(here, torch.arange(40), y, 5, n_iter)
        steps = APGDSteps(here, columns, n_iter + 1, loss="ce", n_iter=n_iter, rho=rho, eot_iter=1)
        samples = steps.begin([Span(0, slice(0, 40), 40)])
        sizes = []
        for k in range(n_iter + 1):
            samples.loss.copy_(torch.from_numpy(losses[:, k]))
            steps.step(samples, torch.zeros_like(x), None)
            sizes.append(samples.step_size.numpy().copy())
    at = [0, *checkpoints_of(n_iter)]
    assert n_iter != 100 or at == [0, 22, 41, 57, 70, 80, 87, 93, 99]  # the paper's table
    for i in range(40):
        size, halved = np.float32(0.2), True
        for before, now in pairwise(at):
            assert (np.array(sizes)[before:now, i] == size).all()
            rises = sum(losses[i, k + 1] > losses[i, k] for k in range(before, now))
            same = not halved and losses[i, : now + 1].max() == losses[i, : before + 1].max()
            halved = rises <= rho * (now - before) or same
            size = size / 2 if halved else size
        assert sizes[-1][i] == size
    assert len(set(sizes[-1])) > 3


@pytest.mark.parametrize("kind", ["ce", "margin", "dlr", "dlr-targeted", "margin-targeted"])
def test_the_loss_has_its_gradient(h, kind):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(11, 5, dtype=DTYPE, generator=generator).requires_grad_()
    _, y, target = h.images(11)
    loss, gradient = attack_loss(z.detach(), y, target, kind, towards=False)
    again, _ = attack_loss(z, y, target, kind, towards=False)
    (expected,) = torch.autograd.grad(again.sum(), z)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)
    plain = kind.removesuffix("-targeted")
    if plain == kind:
        torch.testing.assert_close(loss, h.loss_value(plain, z, y).detach())
    else:
        label = y if plain == "dlr" else None
        torch.testing.assert_close(loss, -h.loss_value(plain, z, target, label).detach())


@pytest.mark.parametrize(("loss", "norm", "engine"), pairs(LOSSES, ["linf", "l2"], ["eager", "compiled"]))
def test_an_example_is_adversarial_and_in_the_ball(trained, compiles, fallbacks_are_errors, loss, norm, engine):
    eps = 0.1 if norm == "linf" else 0.5
    model, x, y = trained
    before = x.clone()
    result = apgd(model, x, y, eps=eps, norm=norm, loss=loss, n_iter=20, engine=engine, chunk_size=32, return_info=True)
    with torch.no_grad():
        clean, fooled = model(x).argmax(1) != y, model(result.x_adv).argmax(1) != y
    assert torch.equal(result.reached, fooled)
    assert 0 < (~fooled).sum() < (~clean).sum()
    delta = (result.x_adv - x).flatten(1)
    size = delta.abs().amax(1) if norm == "linf" else delta.double().norm(dim=1)
    assert size.max() <= eps * (1 + 1e-6) + 2**-24
    assert 0 <= result.x_adv.min() <= result.x_adv.max() <= 1
    unmoved = (result.x_adv == x).flatten(1).all(1)
    assert torch.equal(unmoved, ~fooled | clean)
    assert torch.equal(x, before)
    assert torch.equal(result.pred, result.logits.argmax(1))
    assert (result.steps[clean] == 0).all()
    # The batch stays full, and shrinks to a half and a quarter at the end.
    assert compiles == [32, 16, 8][: len(compiles)]
    assert (len(compiles) > 0) == (engine == "compiled")


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.5)])
def test_it_is_not_weaker_than_pgd_of_as_many_steps(trained, norm, eps):
    model, x, y = trained
    plain = fast_pgd(model, x, y, eps=eps, step_size=eps / 10, steps=50, norm=norm, seed=0, return_info=True)
    found = apgd(model, x, y, eps=eps, norm=norm, n_iter=50, return_info=True)
    assert plain.reached.sum() > (model(x).argmax(1) != y).sum()
    assert found.reached.sum() >= plain.reached.sum()
    targeted = apgd(model, x, y, eps=eps, norm=norm, n_iter=50, loss="dlr-targeted", return_info=True)
    assert targeted.reached.sum() >= plain.reached.sum()


@pytest.mark.parametrize("options", [{"chunk_size": 7}, {"chunk_size": 50}, {"order": True}])
def test_a_sample_does_not_depend_on_its_batch(trained, options):
    model, x, y = trained
    ids = 1000 + torch.arange(len(x))
    keywords = {"eps": 0.1, "n_iter": 12, "n_restarts": 2, "seed": 3}
    expected = apgd(model.double(), x.double(), y, sample_ids=ids, **keywords)
    order = torch.randperm(len(x)) if options.pop("order", False) else torch.arange(len(x))
    found = apgd(model, x[order].double(), y[order], sample_ids=ids[order], **keywords, **options)
    model.float()
    torch.testing.assert_close(found, expected[order], rtol=0, atol=1e-9)


def test_a_radius_per_sample_and_a_restart_only_for_the_rest(trained):
    model, x, y = trained
    eps = torch.linspace(1e-6, 0.2, len(x))
    one = apgd(model, x, y, eps=eps, n_iter=10, return_info=True)
    three = apgd(model, x, y, eps=eps, n_iter=10, n_restarts=3, return_info=True)
    assert ((one.x_adv - x).flatten(1).abs().amax(1) <= eps + 2**-24).all()
    assert torch.equal(three.x_adv[one.reached], one.x_adv[one.reached])
    assert three.reached.sum() >= one.reached.sum()
    assert (three.steps[~three.reached] == 3 * 11).all()


def test_a_given_target_is_the_goal(trained):
    model, x, y = trained
    target = (y + 1) % 6
    result = apgd(model, x, y, target=target, eps=0.15, n_iter=20, loss="dlr-targeted", return_info=True)
    assert torch.equal(result.reached, model(result.x_adv).argmax(1) == target)
    assert 0 < result.reached.sum() < len(x)
    by_ce = apgd(model, x, y, target=target, eps=0.15, n_iter=20, return_info=True)
    assert by_ce.reached.sum() > 0
    with pytest.raises(ValueError, match="target must be another class than y"):
        apgd(model, x, y, target=y)


@pytest.mark.parametrize("classes", [2, 3])
def test_few_classes_take_the_margin(trained, classes):
    model, x, y = trained
    few = torch.nn.Sequential(*model[:-1], torch.nn.Linear(32, classes))
    with torch.no_grad():
        few[-1].weight.copy_(model[-1].weight[:classes])
        few[-1].bias.copy_(model[-1].bias[:classes])
    keep = y < classes
    result = apgd(few, x[keep], y[keep], loss="dlr-targeted", eps=0.15, n_iter=20, return_info=True)
    assert result.reached.sum() > (few(x[keep]).argmax(1) != y[keep]).sum()
    assert result.steps.max() <= 21 * (classes - 1)


def test_low_precision_searches_and_full_precision_decides(trained):
    model, x, y = trained
    found = apgd(model, x, y, eps=0.1, n_iter=15, amp=torch.bfloat16, return_info=True)
    exact = apgd(model, x, y, eps=0.1, n_iter=15, return_info=True)
    assert torch.equal(found.reached, model(found.x_adv).argmax(1) != y)
    assert abs(found.reached.sum() - exact.reached.sum()) <= 4


def test_normalization_is_the_models(trained):
    model, x, y = trained
    shifted = torch.nn.Sequential(*model)

    class Shifted(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = shifted

        def forward(self, x):
            return self.inside(0.5 * x + 0.25)  # powers of two: no rounding between the two ways

    keywords = {"eps": 0.1, "n_iter": 10, "seed": 1}
    expected = apgd(model, x, y, **keywords)
    found = apgd(Shifted(), x, y, normalize=((0.25,), (0.5,)), **keywords)
    assert torch.equal(found, expected)
