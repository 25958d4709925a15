"""cleverhans' functions and advertorch's class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fairtat.integrations.advertorch import LinfPGDAttack
from fairtat.integrations.peer import PeerLoop

cleverhans = pytest.importorskip("cleverhans.torch.attacks.projected_gradient_descent")
fgm = pytest.importorskip("cleverhans.torch.attacks.fast_gradient_method")
ours = pytest.importorskip("fairtat.integrations.cleverhans")

BOUNDS = {"clip_min": 0.0, "clip_max": 1.0}


def seeded(function, *arguments, **keywords):
    torch.manual_seed(6)
    return function(*arguments, **keywords).detach()


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(
    ("eps", "norm", "bounds", "keywords"),
    [
        (0.1, np.inf, BOUNDS, {}),
        (0.1, np.inf, {}, {"rand_init": False}),
        (0.1, np.inf, BOUNDS, {"rand_minmax": 0.03}),
        (1.0, 2, {}, {}),
    ],
)
def test_projected_gradient_descent(problem, targeted, eps, norm, bounds, keywords):
    goal = problem.target if targeted else problem.y
    arguments = (problem.model, problem.x, eps, eps / 5, 6, norm)
    mine, theirs = (
        seeded(library.projected_gradient_descent, *arguments, y=goal, targeted=targeted, **bounds, **keywords)
        for library in (ours, cleverhans)
    )
    problem.agrees(mine, theirs, eps)


@pytest.mark.parametrize(("eps", "norm"), [(0.1, np.inf), (1.0, 2)])
def test_fast_gradient_method_with_the_models_own_labels(problem, eps, norm):
    mine, theirs = (
        seeded(library.fast_gradient_method, problem.model, problem.x, eps, norm, **BOUNDS) for library in (ours, fgm)
    )
    problem.agrees(mine, theirs, eps)


@pytest.mark.parametrize(
    ("eps", "norm", "bounds", "why"),
    [
        (1.0, 2, BOUNDS, "clips to the bounds before"),
        (0.0, np.inf, BOUNDS, "eps is 0"),
        (0.1, np.inf, {}, "train mode"),
        (1.5, np.inf, {**BOUNDS, "sanity_checks": False}, "eps must be at most 1 in linf"),
        (0.1, np.inf, {"clip_min": 0.4, "clip_max": 0.6, "sanity_checks": False}, "images are outside"),
    ],
)
def test_what_fairtat_does_not_compute_runs_in_cleverhans(problem, eps, norm, bounds, why):
    problem.model.train(why == "train mode")
    arguments = (problem.model, problem.x, eps, eps / 5, 2, norm)
    with pytest.warns(PeerLoop, match=why):
        mine = seeded(ours.projected_gradient_descent, *arguments, y=problem.y, rand_init=False, **bounds)
    theirs = seeded(cleverhans.projected_gradient_descent, *arguments, y=problem.y, rand_init=False, **bounds)
    assert torch.equal(mine, theirs)


def test_wrong_arguments_get_the_peers_errors(problem):
    with pytest.warns(PeerLoop), pytest.raises(ValueError, match="Norm order"):
        ours.projected_gradient_descent(problem.model, problem.x, 0.1, 0.02, 2, 3)


def advertorch_by_hand(model, x, y, eps, step, steps, targeted, loss_fn=F.cross_entropy):
    """The published loop: x + delta, both clamps, the loss summed."""
    per_sample = eps.view(-1, 1, 1, 1)
    torch.manual_seed(6)
    delta = (x + per_sample * torch.empty_like(x).uniform_(-1, 1)).clamp(0, 1) - x
    for _ in range(steps):
        delta = delta.detach().requires_grad_()
        loss = loss_fn(model(x + delta), y).sum()
        (grad,) = torch.autograd.grad(-loss if targeted else loss, delta)
        delta = (delta + step * grad.sign()).clamp(-per_sample, per_sample)
        delta = (x + delta).clamp(0, 1) - x
    return (x + delta).detach()


@pytest.mark.parametrize("targeted", [False, True])
def test_advertorch_with_a_radius_for_each_sample(problem, targeted):
    goal, eps = (problem.target if targeted else problem.y), torch.linspace(0.02, 0.1, 13)
    attack = LinfPGDAttack(problem.model, nn.CrossEntropyLoss(), eps, 6, 0.02, targeted=targeted)
    mine = seeded(attack, problem.x, goal)
    problem.agrees(mine, advertorch_by_hand(problem.model, problem.x, goal, eps, 0.02, 6, targeted), 0.02)


def margin(logits, y):
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others.amax(1) - logits.gather(1, y[:, None])[:, 0]


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("loss_fn", [nn.CrossEntropyLoss(label_smoothing=0.3), nn.MultiMarginLoss(), margin])
def test_advertorch_with_another_loss(problem, loss_fn, targeted):
    goal, eps = (problem.target if targeted else problem.y), torch.full((13,), 0.1)
    attack = LinfPGDAttack(problem.model, loss_fn, 0.1, 6, 0.02, targeted=targeted)
    mine = seeded(attack, problem.x, goal)
    problem.agrees(mine, advertorch_by_hand(problem.model, problem.x, goal, eps, 0.02, 6, targeted, loss_fn), 0.02)
    assert not torch.equal(
        mine, seeded(LinfPGDAttack(problem.model, None, 0.1, 6, 0.02, targeted=targeted), problem.x, goal)
    )


def test_advertorch_with_bounds_as_tensors(problem):
    numbers = seeded(LinfPGDAttack(problem.model, clip_min=0.0, clip_max=1.0), problem.x, problem.y)
    bounds = {"clip_min": torch.zeros_like(problem.x), "clip_max": torch.ones(())}
    assert torch.equal(seeded(LinfPGDAttack(problem.model, **bounds), problem.x, problem.y), numbers)
    with pytest.raises(ValueError, match=r"clip_max must be the same for all pixels, got values from 0\.5"):
        LinfPGDAttack(problem.model, clip_max=torch.tensor([0.5, 1.0])).perturb(problem.x)


def test_advertorch_says_what_it_does_not_take(problem):
    with pytest.raises(ValueError, match="y must be the targets"):
        LinfPGDAttack(problem.model, targeted=True).perturb(problem.x)
    with pytest.raises(ValueError, match=r"LinfPGDAttack: images are outside \[0.4, 1.0\]"):
        LinfPGDAttack(problem.model, clip_min=0.4).perturb(problem.x)
    with pytest.raises(ValueError, match="LinfPGDAttack: eps must be at most 1 in linf"):
        LinfPGDAttack(problem.model, eps=torch.linspace(0.1, 1.5, 13)).perturb(problem.x)
    with pytest.raises(ValueError, match=r"train mode; call model.eval\(\)"):
        LinfPGDAttack(problem.model.train()).perturb(problem.x)


def test_a_missing_peer_is_named():
    from fairtat.integrations.peer import require

    with pytest.raises(ImportError, match=r"fairtat\.integrations needs no_such_peer: pip install no_such_peer"):
        require("no_such_peer.attacks")
