"""TRIX's attack: easy classes towards targets, the others away from their labels, each by its own loss."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairtat import ops
from fairtat.data import Batch
from fairtat.fairness import in_easy_class
from fairtat.training.config import from_dict
from fairtat.training.objectives import make_objective

STEP = 0.03


def textbook(model: nn.Module, batch: Batch, start: Tensor, eps: Tensor, step: Tensor, loss: Any) -> Tensor:
    """Three steps, in float64 and sample by sample, up ``loss(logits)`` of each."""
    rows = []
    for i in range(len(batch.y)):
        x, x_adv = batch.x[i : i + 1].double(), start[i : i + 1].double()
        for _ in range(3):
            x_adv = x_adv.detach().requires_grad_()
            (grad,) = torch.autograd.grad(loss(model(x_adv), i), x_adv)
            x_adv = (x_adv + float(step[i]) * grad.sign()).detach()
            x_adv = x_adv.clamp(x - float(eps[i]), x + float(eps[i])).clamp(0, 1)
        rows.append(x_adv)
    return torch.cat(rows)


@pytest.mark.parametrize(("name", "init"), [("trades", "normal"), ("at", "uniform")])
def test_each_sample_is_attacked_in_its_own_direction(
    batch: Batch, model: nn.Module, class_rules: Callable[..., Any], name: str, init: str
) -> None:
    values = {"targets": "random", "targeted": "easy"}
    attack = {"step_size": STEP, "steps": 3}
    objective = make_objective(from_dict({"objective": {"name": name}, "fairness": values, "attack": attack}))
    radii, scale = torch.linspace(0.03, 0.12, 10), torch.linspace(0.5, 1.5, 10)
    target = (batch.y + 3) % 10
    x_adv = objective.attack(model, batch, fair=class_rules(radii, step_scale=scale), target=target, seed=7).x_adv

    exact, eps = copy.deepcopy(model).double().eval(), radii[batch.y]
    clean = exact(batch.x.double()).detach()
    easy = in_easy_class(clean, batch.y)
    assert 0 < easy.sum() < 20

    def loss(z: Tensor, i: int) -> Tensor:
        if easy[i]:
            return -F.cross_entropy(z, target[i : i + 1])
        if name == "at":
            return F.cross_entropy(z, batch.y[i : i + 1])
        p = clean[i : i + 1].softmax(1)
        return (p * (p.log() - z.log_softmax(1))).sum()

    start = ops.pgd_init(batch.x, eps, seed=7, sample_ids=batch.ids, init=init)
    expected = textbook(exact, batch, start, eps, STEP * scale[batch.y], loss)
    # Where a gradient is all but zero its sign is a matter of rounding, and the pixel two steps away.
    assert ((x_adv - expected).abs() > 1e-5).float().mean() < 0.01
    wrong_way = textbook(exact, batch, start, eps, STEP * scale[batch.y], lambda z, i: -loss(z, i))
    assert ((x_adv - wrong_way).abs() > 1e-5).float().mean(dim=(1, 2, 3)).min() > 0.3  # so a wrong sign would show


def test_each_sample_starts_from_its_own_noise(batch: Batch, model: nn.Module, class_rules: Callable[..., Any]) -> None:
    """N-FGSM in both directions: where a sample is attacked as in an unmixed batch, it is the same example."""
    target, fair = (batch.y + 3) % 10, class_rules(0.05)
    attack = {"steps": 1, "rel_step": 1.0, "noise": 2.0}
    mixed = make_objective(from_dict({"fairness": {"targets": "random", "targeted": "easy"}, "attack": attack}))
    plain = make_objective(from_dict({"attack": attack}))
    ours = mixed.attack(model, batch, fair=fair, target=target, seed=7).x_adv
    towards, away = (plain.attack(model, batch, fair=fair, target=t, seed=7).x_adv for t in (target, None))
    easy = in_easy_class(copy.deepcopy(model).eval()(batch.x).detach(), batch.y)
    assert 0 < easy.sum() < 20
    expected = torch.where(easy[:, None, None, None], towards, away)
    assert ((ours - expected).abs() > 1e-6).float().mean() < 0.01  # a gradient near zero, summed in another batch


@pytest.mark.parametrize("all_easy", [True, False])
def test_a_batch_in_one_direction(
    batch: Batch,
    model: nn.Module,
    class_rules: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    all_easy: bool,
) -> None:
    from fairtat.training.objectives import examples

    monkeypatch.setattr(examples, "in_easy_class", lambda z, y: torch.full_like(y, all_easy, dtype=torch.bool))
    target, fair = (batch.y + 3) % 10, class_rules(0.08)
    values = {"objective": {"name": "trades"}, "attack": {"step_size": STEP, "steps": 3}}
    mixed = make_objective(from_dict(values | {"fairness": {"targets": "random", "targeted": "easy"}}))
    plain = make_objective(from_dict(values))
    ours = mixed.attack(model, batch, fair=fair, target=target, seed=7).x_adv
    theirs = plain.attack(model, batch, fair=fair, target=target if all_easy else None, seed=7).x_adv
    assert torch.equal(ours, theirs)
