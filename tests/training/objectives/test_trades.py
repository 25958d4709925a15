"""TRADES' step, and CFA's class-wise form of it, against formulas by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairtat.data import Batch
from fairtat.training.config import from_dict
from fairtat.training.objectives import Examples, make_objective

BETA = 4.0
ATTACK = {"step_size": 0.05, "steps": 2}
Check = Callable[[Any, dict[str, Any], Callable[[Tensor, Tensor], Tensor]], None]


def terms(model: nn.Module, batch: Batch, examples: Examples) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy and divergence of each sample in the textbook's form, and the adversarial logits."""
    clean, adversarial = model(batch.x), model(examples.x_adv)  # in this order: each moves the running statistics
    p, q = clean.softmax(1), adversarial.softmax(1)
    return F.cross_entropy(clean, batch.y, reduction="none"), (p * (p / q).log()).sum(1), adversarial


@pytest.fixture
def check(batch: Batch, model: nn.Module, assert_step: Callable[..., None]) -> Check:
    """Loss, gradients, logits and buffers of a step are those of ``expected(cross_entropy, divergence)``."""

    def check(fair: Any, settings: dict[str, Any], expected: Callable[[Tensor, Tensor], Tensor]) -> None:
        objective = make_objective(from_dict({"objective": {"name": "trades", **settings}, "attack": ATTACK}))
        examples = objective.attack(model, batch, fair=fair, target=None, seed=5)
        by_hand = copy.deepcopy(model)
        value = objective.loss(model, batch, examples, fair=fair)
        natural, robust, logits = terms(by_hand, batch, examples)
        assert_step(value, model, expected(natural, robust), logits, by_hand)

    return check


def test_plain(check: Check, class_rules: Callable[..., Any]) -> None:
    check(class_rules(), {"beta": BETA}, lambda ce, kl: (ce + BETA * kl).sum() / 20)


def test_class_weights(check: Check, batch: Batch, class_rules: Callable[..., Any]) -> None:
    w, v = torch.linspace(0.5, 1.5, 10), torch.linspace(2.0, 0.1, 10)
    fair = class_rules(weight=w, robust_weight=v)
    y = batch.y
    check(fair, {"beta": BETA}, lambda ce, kl: (w[y] * ce + BETA * v[y] * kl).sum() / 20)


def test_only_the_cross_entropy_is_weighted_where_the_rules_say_so(
    check: Check, batch: Batch, class_rules: Callable[..., Any]
) -> None:
    w, y = torch.linspace(0.5, 1.5, 10), batch.y
    check(class_rules(weight=w), {"beta": BETA}, lambda ce, kl: (w[y] * ce + BETA * kl).sum() / 20)


@pytest.mark.parametrize("lam", [None, 0.3])
def test_class_wise_beta(check: Check, batch: Batch, class_rules: Callable[..., Any], lam: float | None) -> None:
    robustness = torch.linspace(0.0, 0.9, 10)
    beta = ((0.5 if lam is None else lam) + robustness)[batch.y] * BETA
    b = beta / (1 + beta)
    settings = {"beta": BETA, "ccr": True, "ccr_lam": lam}
    fair = class_rules(robustness=robustness)
    check(fair, settings, lambda ce, kl: ((1 - b) * ce + b * kl).sum() / 20)


def test_class_wise_beta_is_the_plain_one_before_the_rules_apply(check: Check, class_rules: Callable[..., Any]) -> None:
    settings = {"beta": BETA, "ccr": True}
    check(class_rules(), settings, lambda ce, kl: (ce + BETA * kl).sum() / 20 / (1 + BETA))


def test_class_wise_beta_is_left_alone_where_it_is_not_asked_for(check: Check, class_rules: Callable[..., Any]) -> None:
    fair = class_rules(robustness=torch.linspace(0.0, 0.9, 10))
    check(fair, {"beta": BETA}, lambda ce, kl: (ce + BETA * kl).sum() / 20)


@pytest.mark.parametrize("smoothing", [0.1])
def test_only_the_cross_entropy_is_smoothed(
    batch: Batch, model: nn.Module, class_rules: Callable[..., Any], smoothing: float
) -> None:
    objective = make_objective(
        from_dict({"objective": {"name": "trades", "beta": BETA, "label_smoothing": smoothing}, "attack": ATTACK})
    )
    fair = class_rules()
    examples = objective.attack(model, batch, fair=fair, target=None, seed=5)
    model.eval()
    natural = F.cross_entropy(model(batch.x), batch.y, label_smoothing=smoothing)
    robust = terms(model, batch, examples)[1].mean()
    torch.testing.assert_close(objective.loss(model, batch, examples, fair=fair).loss, natural + BETA * robust)
