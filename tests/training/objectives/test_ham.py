"""HAM: which samples are hard, and the mean loss over them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fairtat import fast_pgd
from fairtat.data import Batch
from fairtat.training.config import from_dict
from fairtat.training.objectives import Examples, HardExampleMining

ATTACK = {"step_size": 0.03, "steps": 6}


def objective(**more: Any) -> HardExampleMining:
    return HardExampleMining(
        from_dict({"objective": {"name": "ham", "mining_step": 2, **more}, "attack": ATTACK, "epochs": 4})
    )


def test_hard_is_what_is_wrong_after_a_few_steps(
    batch: Batch, model: nn.Module, class_rules: Callable[..., Any]
) -> None:
    with torch.no_grad():
        labels = copy.deepcopy(model).eval()(batch.x).argmax(1)
    batch = batch._replace(y=labels)
    made = objective().attack(model, batch, fair=class_rules(0.15), target=None, seed=7)
    options = {"eps": 0.15, "step_size": 0.03, "seed": 7, "sample_ids": batch.ids}
    shorter = fast_pgd(model, batch.x, labels, steps=2, return_info=True, **options)
    assert torch.equal(made.more[0], shorter.reached)
    assert 0 < int(shorter.reached.sum()) < 20
    assert torch.equal(made.x_adv, fast_pgd(model, batch.x, labels, steps=6, **options))


@pytest.mark.parametrize("hard", ["some", "none"])
def test_loss_and_gradient(
    batch: Batch, model: nn.Module, class_rules: Callable[..., Any], assert_step: Callable[..., None], hard: str
) -> None:
    w = torch.linspace(0.5, 1.5, 10)
    chosen = [3, 4, 11, 19] if hard == "some" else []
    mask = torch.zeros(20, dtype=torch.bool)
    mask[chosen] = True
    by_hand = copy.deepcopy(model)
    value = objective().loss(model, batch, Examples(batch.x, (mask,)), fair=class_rules(weight=w))
    logits = by_hand(batch.x)
    loss = sum((w[batch.y[i]] * F.cross_entropy(logits[i], batch.y[i]) for i in chosen), 0 * logits.sum())
    assert_step(value, model, loss / max(len(chosen), 1), logits, by_hand)


def test_before_its_share_of_the_epochs_it_is_adversarial_training(
    batch: Batch, model: nn.Module, class_rules: Callable[..., Any], assert_step: Callable[..., None]
) -> None:
    later = objective(begin=0.5)
    assert later.attack(model, batch, fair=class_rules(epoch=2), target=None, seed=7).more
    made = later.attack(model, batch, fair=class_rules(epoch=1), target=None, seed=7)
    assert not made.more
    by_hand = copy.deepcopy(model)
    value = later.loss(model, batch, made, fair=class_rules(epoch=1))
    logits = by_hand(made.x_adv)
    assert_step(value, model, F.cross_entropy(logits, batch.y), logits, by_hand)
