"""The attacks in L1: against a loop in numpy's float64, within the budget, on every engine."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fairtat import fast_mixed_pgd, fast_pgd, fast_targeted_pgd

FLOAT64 = torch.float64
L1 = {"norm": "l1", "eps": 4.0, "step_size": 2.0, "steps": 6, "density": 0.1, "init": "zero"}


def nearest(v, x, eps):
    """The nearest point to v in the L1 ball around x and in [0, 1]: what all give up, by bisection of plain sums."""
    offset = v - x
    room = np.where(offset > 0, 1 - x, x)

    def left(cut):
        return np.minimum(np.maximum(np.abs(offset) - cut, 0), room)

    low, high = 0.0, np.abs(offset).max()
    if left(0.0).sum() > eps:
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if left(middle).sum() > eps else (low, middle)
    else:
        high = 0.0
    return x + np.sign(offset) * left(high)


def textbook(model, x, goal, targeted, kept=11):
    x_adv = x.clone()
    for _ in range(L1["steps"]):
        x_adv.requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(model(x_adv), goal, reduction="sum"), x_adv)
        rows = []
        for a, g, c, towards in zip(x_adv.detach(), grad, x, targeted, strict=True):
            magnitude = g.abs().flatten()
            s = torch.where(g.abs() >= magnitude.sort().values[-kept], g.sign(), 0.0)
            v = a + (-1 if towards else 1) * L1["step_size"] * s / s.abs().sum()
            rows.append(torch.from_numpy(nearest(v.numpy(), c.numpy(), L1["eps"])))
        x_adv = torch.stack(rows)
    return x_adv


@pytest.mark.parametrize("engine", ["eager", "compiled", "graph"])
def test_it_is_the_textbook_loop(h, stub, compiles, engine):
    model, (x, y, target) = h.cnn(FLOAT64).eval(), h.images(7, FLOAT64)
    targeted = torch.arange(7) % 2 == 0
    goal = torch.where(targeted, target, y)
    expected = textbook(model, x, goal, targeted)
    found = fast_mixed_pgd(model, x, goal, targeted, engine=engine, **L1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("options", [
    {}, {"momentum": 0.9}, {"early_stop": True}, {"normalize": ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))}, {"chunk_size": 3},
    {"step_schedule": [1.0, 0.5] * 3}, {"amp": torch.bfloat16},
], ids=str)  # fmt: skip
def test_the_budget_holds_and_the_attack_works(h, backend, options):
    model, (x, _, target) = h.cnn().eval(), h.images(9)
    radii = torch.linspace(0.5, 6.0, 9)
    x_adv = fast_targeted_pgd(model, x, target, backend=backend, **{**L1, "eps": radii, **options})
    lengths = (x_adv.double() - x.double()).abs().flatten(1).sum(1)
    assert bool((lengths <= radii.double() + 108 * 2.0**-24).all())
    assert x_adv.min() >= 0
    assert x_adv.max() <= 1
    if options.get("normalize") is None:
        with torch.no_grad():
            before, after = (F.cross_entropy(model(images), target, reduction="none") for images in (x, x_adv))
            stays = (model(x).argmax(1) == target) & bool(options.get("early_stop"))
        assert bool(((after < before) | stays).all())
        assert not bool(stays.all())


def test_fewer_elements_change_than_in_other_norms(h):
    model, (x, y, _) = h.cnn().eval(), h.images(9)
    x_adv = fast_pgd(model, x, y, **{**L1, "steps": 3, "density": 0.02})
    changed = (x_adv != x).flatten(1).sum(1)
    assert bool((changed <= 3 * 2).all())
    assert bool((changed > 0).all())


def test_a_start_of_ones_own_is_projected(h):
    model, (x, y, _) = h.cnn(), h.images(4)
    start = torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    found = fast_pgd(model, x, y, **{**L1, "steps": 0, "init": start})
    expected = np.stack([nearest(s.numpy(), c.numpy(), 4.0) for s, c in zip(start.double(), x.double(), strict=True)])
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), rtol=0, atol=1e-6)


def test_what_is_refused(h):
    x, y, _ = h.images(3)
    with pytest.raises(ValueError, match=r"norm='l1' has no random start: init must be 'zero' or .* got 'uniform'"):
        fast_pgd(h.cnn(), x, y, norm="l1")
    with pytest.raises(ValueError, match=r"density must be in \(0, 1\], got 0"):
        fast_pgd(h.cnn(), x, y, norm="l1", init="zero", density=0)
    with pytest.raises(ValueError, match="norm must be one of 'linf', 'l2', 'l1', got 'l0'"):
        fast_pgd(h.cnn(), x, y, norm="l0")
