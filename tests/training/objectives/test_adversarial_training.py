"""Adversarial training's step against a textbook one."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fairtat import fast_pgd, fast_targeted_pgd
from fairtat.data import Batch
from fairtat.training.config import from_dict
from fairtat.training.objectives import make_objective


@pytest.mark.parametrize("name", ["at", "fat"])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("bn_mode", ["eval", "train", "train_frozen_stats"])
def test_loss_gradients_and_buffers_are_those_of_the_textbook(
    batch: Batch, model: nn.Module, class_rules: Callable[..., Any], name: str, targeted: bool, bn_mode: str
) -> None:
    attack = {"step_size": 0.05, "steps": 3, "bn_mode": bn_mode}
    objective = make_objective(from_dict({"objective": {"name": name, "tau": 1}, "attack": attack}))
    by_hand = copy.deepcopy(model)
    target = (batch.y + 3) % 10 if targeted else None
    radii = torch.linspace(0.02, 0.2, 10)
    fair = class_rules(radii)

    value = objective.loss(model, batch, objective.attack(model, batch, fair=fair, target=target, seed=11), fair=fair)
    value.loss.backward()

    options = {**attack, "eps": radii[batch.y], "seed": 11, "sample_ids": batch.ids}
    if name == "fat":
        options |= {"early_stop": True, "extra_steps": 1}
    if target is None:
        x_adv = fast_pgd(by_hand, batch.x, batch.y, **options)
    else:
        x_adv = fast_targeted_pgd(by_hand, batch.x, target, **options)
    logits = by_hand(x_adv)
    loss = F.cross_entropy(logits, batch.y)
    loss.backward()

    torch.testing.assert_close(value.loss, loss)
    assert torch.equal(value.logits, logits)
    assert not value.logits.requires_grad
    for ours, theirs in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    for ours, theirs in zip(model.buffers(), by_hand.buffers(), strict=True):
        assert torch.equal(ours, theirs)


def test_weights_and_smoothing_enter_the_cross_entropy(
    batch: Batch, model: nn.Module, class_rules: Callable[..., Any]
) -> None:
    config = from_dict({"objective": {"label_smoothing": 0.1}, "attack": {"step_size": 0.05, "steps": 3}})
    objective, weight = make_objective(config), torch.linspace(0.2, 2.0, 10)
    model = model.eval().double()  # the passes below are then the same to 1e-15
    batch = batch._replace(x=batch.x.double())
    fair = class_rules(weight=weight.double(), robust_weight=torch.zeros(10))  # which is TRADES' business
    examples = objective.attack(model, batch, fair=fair, target=None, seed=11)
    ours = torch.autograd.grad(objective.loss(model, batch, examples, fair=fair).loss, list(model.parameters()))

    q = torch.full((20, 10), 0.01, dtype=torch.float64)
    q[torch.arange(20), batch.y] += 0.9
    per_sample = -(q * model(examples.x_adv).log_softmax(1)).sum(1)
    theirs = torch.autograd.grad((weight[batch.y] * per_sample).sum() / 20, list(model.parameters()))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)  # the loss itself is float32


def test_the_target_changes_the_examples(batch: Batch, model: nn.Module, class_rules: Callable[..., Any]) -> None:
    objective = make_objective(from_dict({"attack": {"steps": 3, "step_size": 0.05}}))
    fair = class_rules(0.2)
    model.eval()
    logits = [
        objective.loss(model, batch, objective.attack(model, batch, fair=fair, target=target, seed=0), fair=fair).logits
        for target in (None, (batch.y + 1) % 10, (batch.y + 2) % 10)
    ]
    assert not torch.equal(logits[0], logits[1])
    # Towards a class: it is more likely than when the attack went elsewhere.
    one, two = logits[1].log_softmax(1), logits[2].log_softmax(1)
    towards = (batch.y + 1) % 10
    assert (one - two).gather(1, towards[:, None]).mean() > 0
