"""Multi-targeted PGD: every step against a loop of its own, and no weaker than the attacks that it is made of."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fairtat import fast_targeted_pgd
from fairtat.attacks import multi_targeted_pgd
from fairtat.attacks.autoattack.stages import stream_of
from fairtat.ops import pgd_init

DTYPE = torch.float64


def likely_targets(model, x, y, count):
    """(N, count) the classes other than the label, most likely first."""
    with torch.no_grad():
        z = model(x)
    return z.scatter(1, y[:, None], -torch.inf).argsort(dim=1, descending=True)[:, :count]


def textbook(model, start, x, y, targets, *, eps, step_size, n_iter, norm):
    """Of one image: the first fooling point of all runs, else the point of the largest margin among the runs' best."""
    margins = [(_margin(model, x, y), x)]
    for k, t in enumerate(targets):
        now, best = start(k), None
        for _ in range(n_iter + 1):
            now.requires_grad_()
            z = model(now[None])[0]
            difference = z[t] - z[y]
            (g,) = torch.autograd.grad(difference, now)
            now = now.detach()
            if z.argmax() != y:
                return True, now
            if best is None or difference.item() > best[0]:
                best = difference.item(), now
            direction = g.sign() if norm == "linf" else g / g.norm()
            delta = now + step_size * direction - x
            delta = delta.clamp(-eps, eps) if norm == "linf" else delta * min(1.0, eps / delta.norm().item())
            now = (x + delta).clamp(0, 1)
        margins.append((_margin(model, best[1], y), best[1]))
    return False, max(margins, key=lambda each: each[0])[1]


def _margin(model, point, y):
    with torch.no_grad():
        z = model(point[None])[0]
    return (torch.cat((z[:y], z[y + 1 :])).max() - z[y]).item()


@pytest.mark.parametrize(
    ("norm", "eps", "engine"),
    [
        ("linf", 0.04, "eager"),
        ("l2", 0.3, "eager"),
        pytest.param("linf", 0.04, "compiled", marks=pytest.mark.slow),
    ],
)
def test_every_step_is_that_of_the_paper(h, compiles, norm, eps, engine):
    model, (x, _, _) = h.cnn(DTYPE).eval(), h.images(7, DTYPE)
    y, ids = model(x).argmax(1), torch.arange(40, 47)
    step_size = torch.linspace(eps / 6, eps / 3, 7, dtype=DTYPE)
    targets = likely_targets(model, x, y, 3)
    result = multi_targeted_pgd(
        model, x, y, eps=eps, norm=norm, step_size=step_size, n_iter=5, n_target_classes=3, seed=4, sample_ids=ids,
        engine=engine, return_info=True,
    )  # fmt: skip
    assert bool(compiles) == (engine == "compiled")
    for i in range(7):

        def start(k, i=i):
            stream = stream_of("mt", k + 1, 0)
            return pgd_init(x[i : i + 1], eps, seed=4, sample_ids=ids[i : i + 1], stream=stream, norm=norm)[0]

        fooled, expected = textbook(
            model, start, x[i], y[i], targets[i], eps=eps, step_size=step_size[i], n_iter=5, norm=norm
        )
        assert result.reached[i] == fooled
        torch.testing.assert_close(result.x_adv[i], expected, rtol=0, atol=1e-9)
    assert 0 < result.reached.sum() < 7


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.55)])
def test_it_is_never_weaker_than_pgd_towards_any_of_its_targets(trained, norm, eps):
    model, x, y = trained
    model, x = model.double(), x.double()
    targets = likely_targets(model, x, y, 3)
    result = multi_targeted_pgd(model, x, y, eps=eps, norm=norm, n_iter=8, n_target_classes=3, return_info=True)

    def difference(logits, goal):
        return (logits.gather(1, y[:, None]) - logits.gather(1, goal[:, None]))[:, 0]

    fooled = torch.zeros_like(result.reached)
    for k in range(3):
        start = pgd_init(x, eps, seed=0, sample_ids=torch.arange(len(x)), stream=stream_of("mt", k + 1, 0), norm=norm)
        alone = fast_targeted_pgd(
            model, x, targets[:, k].contiguous(), eps=eps, step_size=eps / 4, steps=8, norm=norm, init=start,
            loss=difference,
        )  # fmt: skip
        with torch.no_grad():
            fooled |= model(alone).argmax(1) != y
    model.float()
    assert 0 < fooled.sum() < len(x)
    assert result.reached[fooled].all()


def test_the_clean_forward_is_shared_and_who_is_fooled_leaves(h):
    model, (x, _, _) = h.cnn().eval(), h.images(9)
    y = model(x).argmax(1)
    call, sizes = h.counting(model)
    multi_targeted_pgd(call, x, (y + 1) % h.classes, n_iter=5)
    assert sizes == [9]  # all are wrong as they are
    sizes.clear()
    robust = multi_targeted_pgd(call, x, y, eps=1e-6, n_iter=5, n_target_classes=2, return_info=True)
    assert not robust.reached.any()
    # The images, then two targets: six points each, and a look at the best of them.
    assert sizes == [9] * (1 + 2 * (6 + 1))


def test_the_best_point_of_a_robust_image_is_kept(trained):
    model, x, y = trained
    result = multi_targeted_pgd(model, x, y, eps=0.05, n_iter=8, n_target_classes=2, return_info=True)
    with torch.no_grad():
        margins = [
            (z.scatter(1, y[:, None], -torch.inf).amax(1) - z.gather(1, y[:, None])[:, 0])
            for z in (model(x), model(result.x_adv))
        ]
    robust = ~result.reached
    assert robust.sum() > 50
    assert (margins[1] > margins[0])[robust].all()
    torch.testing.assert_close(result.loss, margins[1], rtol=1e-4, atol=1e-5)
    assert (result.x_adv - x).abs().max() <= 0.05 + 1e-7


def test_a_target_is_the_only_class_that_counts(trained):
    model, x, y = trained
    target = (y + 1) % 6
    result = multi_targeted_pgd(model, x, y, eps=0.15, target=target, n_iter=10, return_info=True)
    with torch.no_grad():
        assert torch.equal(result.reached, model(result.x_adv).argmax(1) == target)
    assert 0 < result.reached.sum() < len(x)


def test_two_classes_have_one_target():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Flatten(), nn.Linear(6, 2)).eval(), torch.rand(40, 6)
    y = model(x).argmax(1)
    result = multi_targeted_pgd(model, x, y, eps=0.2, bounds=(-1.0, 2.0), return_info=True)
    with torch.no_grad():
        weight, z = model[1].weight, model(x)
        gap = (z[:, 0] - z[:, 1]).abs()
        reach = 0.2 * (weight[0] - weight[1]).abs().sum()
    assert 0 < result.reached.sum() < len(x)
    assert torch.equal(result.reached, gap < reach)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"n_iter": 0}, ValueError, "n_iter must be at least 1, got 0"),
        ({"n_target_classes": 0}, ValueError, "n_target_classes must be at least 1, got 0"),
        ({"n_restarts": 0}, ValueError, "n_restarts must be at least 1, got 0"),
        ({"step_size": -0.1}, ValueError, "step_size must be finite and at least 0"),
        ({"step_size": torch.ones(5)}, ValueError, r"step_size must have shape \(6,\)"),
    ],
)
def test_settings_out_of_range_are_refused(h, changes, error, message):
    model, (x, y, _) = h.cnn(), h.images(6)
    with pytest.raises(error, match=message):
        multi_targeted_pgd(model, x, y, **changes)
