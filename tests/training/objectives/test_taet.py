"""TAET's loss in float64, class by class, and its first stage."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fairtat.data import Batch
from fairtat.training.config import from_dict
from fairtat.training.objectives import AdversarialEqualization, Examples

FACTORS = (0.3, 0.2, 0.7)


def objective(begin: float = 0.0) -> AdversarialEqualization:
    own = {"name": "taet", "equalize": list(FACTORS), "begin": begin}
    return AdversarialEqualization(from_dict({"objective": own, "attack": {"steps": 2}, "epochs": 4}))


@pytest.mark.parametrize("absent", [(), (0, 7)])
def test_loss_and_gradient(
    batch: Batch, model: nn.Module, class_rules: Callable[..., Any], absent: tuple[int, ...]
) -> None:
    y = torch.tensor([label if label not in absent else 3 for label in batch.y.tolist()])
    batch, w = batch._replace(y=y), torch.linspace(0.5, 1.5, 10)
    exact = copy.deepcopy(model).double()
    value = objective().loss(model, batch, Examples(batch.x), fair=class_rules(weight=w))
    value.loss.backward()

    logits = exact(batch.x.double())
    losses = {c: [] for c in sorted(set(y.tolist()))}
    for i, label in enumerate(y.tolist()):
        losses[label].append(-w[label].double() * logits[i].log_softmax(0)[label])
    means = torch.stack([torch.stack(of_class).mean() for of_class in losses.values()])
    assert len(means) == 10 - len(absent)
    a, b, g = FACTORS
    expected = a * means.mean() + b * ((means - means.mean()) ** 2).mean() + g * ((means / means.sum()) ** 2).sum()
    expected.backward()
    assert float(value.loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    for ours, theirs in zip(model.parameters(), exact.parameters(), strict=True):
        assert ours.grad is not None
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-3, atol=1e-5)


def test_its_first_stage_trains_on_clean_images(
    batch: Batch, model: nn.Module, class_rules: Callable[..., Any], assert_step: Callable[..., None]
) -> None:
    early, late = class_rules(epoch=1), class_rules(epoch=2)
    staged = objective(begin=0.5)
    assert not torch.equal(staged.attack(model, batch, fair=late, target=None, seed=7).x_adv, batch.x)
    made = staged.attack(model, batch, fair=early, target=None, seed=7)
    assert torch.equal(made.x_adv, batch.x)
    by_hand = copy.deepcopy(model)
    value = staged.loss(model, batch, made, fair=early)
    logits = by_hand(batch.x)
    assert_step(value, model, F.cross_entropy(logits, batch.y), logits, by_hand)
