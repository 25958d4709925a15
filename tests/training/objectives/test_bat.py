"""BAT's two examples sample by sample, and its loss, in float64 and by loops."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairtat import EngineFallback, ops
from fairtat.data import Batch
from fairtat.training.config import from_dict
from fairtat.training.objectives import Examples, make_objective

BETA, STEPS, STEP = 4.0, 8, 0.03
CONFIG = from_dict({"objective": {"name": "bat", "beta": BETA}, "attack": {"step_size": STEP, "steps": STEPS}})


def way(model: nn.Module, x: Tensor, start: Tensor, eps: float) -> tuple[list[Tensor], list[int]]:
    """x_0, ..., x_K of one image by textbook steps up the divergence, and the predictions on them."""
    clean = model(x).detach().softmax(1)
    images, predictions = [start], []
    for _ in range(STEPS):
        x_adv = images[-1].clone().requires_grad_()
        logits = model(x_adv)
        (grad,) = torch.autograd.grad((clean * (clean.log() - logits.log_softmax(1))).sum(), x_adv)
        predictions.append(int(logits.argmax()))
        images.append((x_adv + STEP * grad.sign()).clamp(x - eps, x + eps).clamp(0, 1).detach())
    return images, predictions


def by_hand(model: nn.Module, batch: Batch, eps: float) -> tuple[Tensor, Tensor, set[str]]:
    model = copy.deepcopy(model).eval()
    radius = torch.full((len(batch.y),), eps)
    starts = ops.pgd_init(batch.x, radius, seed=7, sample_ids=batch.ids, init="normal")
    correct, friendly, kinds = [], [], set()
    for i, y in enumerate(batch.y.tolist()):
        images, predictions = way(model, batch.x[i : i + 1], starts[i : i + 1], eps)
        wrong = [k for k, prediction in enumerate(predictions) if prediction != y]
        kinds.add("never" if not wrong else "at once" if wrong[0] == 0 else "on the way")
        correct.append(images[STEPS] if not wrong else images[max(0, wrong[0] - 1)])
        friendly.append(images[wrong[1]] if len(wrong) > 1 else images[STEPS])
    return torch.cat(correct), torch.cat(friendly), kinds


def test_the_last_right_and_the_second_wrong_example(
    batch: Batch, model: nn.Module, class_rules: Callable[..., Any]
) -> None:
    with torch.no_grad():  # labels that the model mostly gives, so that samples cross the boundary on the way
        labels = copy.deepcopy(model).eval()(batch.x).argmax(1)
    labels[:3] = (labels[:3] + 1) % 10
    batch = batch._replace(y=labels)
    kinds = set()
    for eps in (0.02, 0.2):
        examples = make_objective(CONFIG).attack(model, batch, fair=class_rules(eps), target=None, seed=7)
        correct, friendly, found = by_hand(model, batch, eps)
        kinds |= found
        for ours, theirs in ((examples.more[0], correct), (examples.x_adv, friendly)):
            # Where a gradient is all but zero its sign is a matter of rounding.
            assert ((ours - theirs).abs() > 1e-6).float().mean() < 0.02
    assert kinds == {"never", "at once", "on the way"}


@pytest.mark.parametrize("name", ["bat", "ham"])
def test_a_watched_attack_is_eager_whatever_the_engine(
    batch: Batch, model: nn.Module, class_rules: Callable[..., Any], name: str
) -> None:
    made = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", EngineFallback)
        for engine in ("eager", "compiled"):
            config = from_dict({"objective": {"name": name}, "attack": {"steps": 4, "engine": engine}})
            made.append(make_objective(config).attack(model, batch, fair=class_rules(0.1), target=None, seed=7))
    for ours, theirs in zip((made[0].x_adv, *made[0].more), (made[1].x_adv, *made[1].more), strict=True):
        assert torch.equal(ours, theirs)


def test_without_steps_both_examples_are_the_start(
    batch: Batch, model: nn.Module, class_rules: Callable[..., Any]
) -> None:
    config = from_dict({"objective": {"name": "bat"}, "attack": {"steps": 0}})
    examples = make_objective(config).attack(model, batch, fair=class_rules(0.1), target=None, seed=7)
    start = ops.pgd_init(batch.x, torch.full((20,), 0.1), seed=7, sample_ids=batch.ids, init="normal")
    for image in (examples.x_adv, *examples.more):
        torch.testing.assert_close(image, start)


def test_loss_and_gradient(batch: Batch, model: nn.Module, class_rules: Callable[..., Any]) -> None:
    w, v = torch.linspace(0.5, 1.5, 10), torch.linspace(2.0, 0.1, 10)
    fair, objective = class_rules(0.1, weight=w, robust_weight=v), make_objective(CONFIG)
    examples = Examples((batch.x + 0.1).clamp(0, 1), ((batch.x - 0.05).clamp(0, 1),))
    exact = copy.deepcopy(model).double()
    value = objective.loss(model, batch, examples, fair=fair)
    value.loss.backward()

    z_c, z_a, z = (exact(x.double()) for x in (examples.more[0], examples.x_adv, batch.x))  # in the order of the passes
    p, c, a = z.softmax(1), z_c.softmax(1), z_a.softmax(1)
    y = batch.y
    terms = -w[y] * c.log()[range(20), y] + BETA * v[y] * (p * (p / a).log()).sum(1)
    terms = terms + sum((q * (q * 10).log()).sum(1) for q in (c, a))
    (terms.sum() / 20).backward()
    assert float(value.loss.detach()) == pytest.approx(float(terms.detach().sum() / 20), rel=1e-5)
    for ours, theirs in zip(model.parameters(), exact.parameters(), strict=True):
        assert ours.grad is not None
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(value.logits.double(), z_a.detach(), rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(model.buffers(), exact.buffers(), strict=True):
        torch.testing.assert_close(ours.double(), theirs.double(), rtol=1e-5, atol=1e-6)
