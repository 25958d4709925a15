"""Adversarial training against a loop written out by hand."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from fairtat import fast_pgd, fast_targeted_pgd
from fairtat.attacks import compiled_program
from fairtat.data import Batch
from fairtat.models import digits_cnn
from fairtat.training.config_io import from_dict
from fairtat.training.objectives import make_objective


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(20, 1, 8, 8, generator=generator)
    return Batch(x, torch.arange(20) % 10, torch.arange(100, 120))


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("bn_mode", ["eval", "train", "train_frozen_stats"])
def test_loss_gradients_and_buffers_are_those_of_the_textbook(batch: Batch, targeted: bool, bn_mode: str) -> None:
    config = from_dict(
        {"attack": {"step_size": 0.05, "steps": 3, "bn_mode": bn_mode, "init": "uniform", "norm": "linf"}}
    )
    model = digits_cnn(10, 1, (8, 8), width=4).train()
    by_hand = copy.deepcopy(model)
    target = (batch.y + 3) % 10 if targeted else None
    eps = torch.linspace(0.02, 0.2, 20)

    value = make_objective(config)(model, batch, target=target, eps=eps, seed=11)
    value.loss.backward()

    options = {"eps": eps, "step_size": 0.05, "steps": 3, "bn_mode": bn_mode, "seed": 11, "sample_ids": batch.ids}
    if target is None:
        x_adv = fast_pgd(by_hand, batch.x, batch.y, **options)
    else:
        x_adv = fast_targeted_pgd(by_hand, batch.x, target, **options)
    assert ((x_adv - batch.x).abs().flatten(1).amax(1) <= eps + 1e-6).all()
    logits = by_hand(x_adv)
    F.cross_entropy(logits, batch.y).backward()

    assert torch.equal(value.logits, logits)
    assert not value.logits.requires_grad
    assert all(m.training for m in model.modules())
    for ours, theirs in zip(model.parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)
    for ours, theirs in zip(model.buffers(), by_hand.buffers(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("targeted", [False, True])
def test_the_engine_is_that_of_the_configuration(batch: Batch, targeted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []
    monkeypatch.setattr(compiled_program, "compile_graph", lambda graph, inputs: compiled.append(len(inputs)) or graph)
    model = digits_cnn(10, 1, (8, 8), width=4).train()
    target = (batch.y + 3) % 10 if targeted else None
    eps = torch.linspace(0.02, 0.2, 20)
    values = [
        make_objective(from_dict({"attack": {"steps": 3, "step_size": 0.05, "engine": engine}}))(
            copy.deepcopy(model), batch, target=target, eps=eps, seed=11
        )
        for engine in ("auto", "compiled")
    ]
    assert len(compiled) == 1
    torch.testing.assert_close(values[1].logits, values[0].logits, rtol=1e-3, atol=1e-3)


def test_the_target_changes_the_examples(batch: Batch) -> None:
    config = from_dict({"attack": {"steps": 3, "step_size": 0.05}})
    model = digits_cnn(10, 1, (8, 8), width=4).eval()
    eps = torch.full((20,), 0.2)
    objective = make_objective(config)
    logits = [
        objective(model, batch, target=target, eps=eps, seed=0).logits
        for target in (None, (batch.y + 1) % 10, (batch.y + 2) % 10)
    ]
    assert not torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[1], logits[2])
    # Towards a class: its logit is higher than when the attack went elsewhere.
    one, two = logits[1].log_softmax(1), logits[2].log_softmax(1)
    towards = (batch.y + 1) % 10
    assert (one - two).gather(1, towards[:, None]).mean() > 0
