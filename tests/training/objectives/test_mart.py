"""MART's step against its formula, sample by sample."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fairtat.data import Batch
from fairtat.training.config import from_dict
from fairtat.training.objectives import make_objective


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("targeted", [False, True])
def test_step(
    batch: Batch,
    model: nn.Module,
    class_rules: Callable[..., Any],
    assert_step: Callable[..., None],
    weighted: bool,
    targeted: bool,
) -> None:
    beta = 5.0
    config = from_dict({"objective": {"name": "mart", "beta": beta}, "attack": {"step_size": 0.05, "steps": 2}})
    objective = make_objective(config)
    w, v = torch.linspace(0.5, 1.5, 10), torch.linspace(2.0, 0.1, 10)
    fair = class_rules(weight=w, robust_weight=v) if weighted else class_rules()
    target = (batch.y + 3) % 10 if targeted else None
    examples = objective.attack(model, batch, fair=fair, target=target, seed=5)
    by_hand = copy.deepcopy(model)
    value = objective.loss(model, batch, examples, fair=fair)

    clean, logits = by_hand(batch.x), by_hand(examples.x_adv)
    loss = torch.zeros(())
    for i, y in enumerate(batch.y.tolist()):
        p, q = clean[i].softmax(0), logits[i].softmax(0)
        others = torch.cat([q[:y], q[y + 1 :]])
        boosted = -q[y].log() - (1.0001 - others.max()).log()
        divergence = (p * (p / q).log()).sum()
        w_i, v_i = (w[y], v[y]) if weighted else (1, 1)
        loss = loss + (w_i * boosted + beta * v_i * divergence * (1 - p[y])) / 20
    assert_step(value, model, loss, logits, by_hand)
