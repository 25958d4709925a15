"""Validation figures against a loop over single samples."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fairtat import ClassStats, fast_pgd
from fairtat.data import batches, load_splits
from fairtat.engines.compiled import program
from fairtat.models import build, digits_cnn
from fairtat.training import TrainConfig, Trainer
from fairtat.training.validation import overfitting, validate, validate_fgsm


def trained_model() -> nn.Module:
    """Good enough for an attack to make a difference."""
    torch.manual_seed(0)
    model = digits_cnn(10, 1, (8, 8), width=8)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for batch in batches(load_splits("digits", val=0.05, test=0.2).train, 64, seed=0):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch.x), batch.y).backward()
        optimizer.step()
    return model


def test_counts_are_those_of_a_loop_over_samples(tiny) -> None:
    config = tiny(eval={"steps": 3, "eps": 0.1, "step_size": 0.05, "batch_size": 50}, attack={"eps": 0.01})
    data = load_splits("digits", val=0.05, test=0.2).val
    model = trained_model()
    model.features[1].eval()  # a frozen layer must stay frozen
    result = validate(model, data, config, seed=5)
    assert [m.training for m in model.modules() if isinstance(m, nn.BatchNorm2d)] == [False, True, True]

    model.eval()
    x = data.floats(data.images)
    clean = torch.zeros(10, 10, dtype=torch.int64)
    robust = torch.zeros(10, 10, dtype=torch.int64)
    for row in range(len(data)):
        one, label, ids = x[row : row + 1], data.labels[row : row + 1], data.ids[row : row + 1]
        x_adv = fast_pgd(model, one, label, eps=0.1, step_size=0.05, steps=3, seed=5, sample_ids=ids)
        with torch.no_grad():
            clean[label, model(one).argmax()] += 1
            robust[label, model(x_adv).argmax()] += 1
    assert torch.equal(result.clean.confusion, clean)
    assert torch.equal(result.robust.confusion, robust)
    assert 0 < result.robust.correct.sum() < result.clean.correct.sum()


def test_radius_defaults_to_that_of_training(tiny) -> None:
    data = load_splits("digits", val=0.05, test=0.2).val
    model = trained_model()
    same = validate(model, data, tiny(attack={"eps": 0.2, "step_size": 0.1}), seed=0)
    explicit = validate(model, data, tiny(eval={"eps": 0.2, "step_size": 0.1}), seed=0)
    harmless = validate(model, data, tiny(eval={"eps": 0.0}, attack={"eps": 0.2}), seed=0)
    assert torch.equal(same.robust.buffer, explicit.robust.buffer)
    assert torch.equal(harmless.robust.confusion, harmless.clean.confusion)
    assert not torch.equal(same.robust.confusion, same.clean.confusion)


def test_the_engine_is_that_of_the_attack(tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    monkeypatch.setattr(program, "compile_graph", lambda graph, inputs: sizes.append(len(inputs[0])) or graph)
    data = load_splits("digits", val=0.05, test=0.2).val
    model = trained_model()
    eager, compiled = (
        validate(
            model, data, tiny(attack={"eps": 0.2, "step_size": 0.1, "engine": engine}, eval={"batch_size": 50}), seed=0
        )
        for engine in ("eager", "compiled")
    )
    assert sizes == [50]  # and not again for the last, smaller batch
    assert (eager.robust.confusion - compiled.robust.confusion).abs().sum() <= 2  # rounding may turn one sample


def test_accuracy_under_a_single_step_by_hand(tiny: Callable[..., TrainConfig]) -> None:
    config = tiny(eval={"batch_size": 7})
    val = load_splits("digits", val=0.05, test=0.6).val
    torch.manual_seed(0)
    model = build("mlp", 10, 1, (8, 8), width=32)
    stats = validate_fgsm(model, val, config)
    x = val.floats(val.images).requires_grad_()
    (grad,) = torch.autograd.grad(F.cross_entropy(model(x), val.labels, reduction="sum"), x)
    pred = model((x + 0.05 * grad.sign()).clamp(0, 1)).argmax(1)
    assert stats.correct.tolist() == [int(((pred == k) & (val.labels == k)).sum()) for k in range(10)]
    assert model.training


@pytest.mark.parametrize(
    ("fgsm", "pgd", "alarm"),
    [
        (0.56, 0.50, False),
        (0.85, 0.0, True),
        (0.9, 0.44, True),
        (0.9, 0.46, False),
        (0.2, 0.0, False),
        (0.3, 0.6, False),
    ],
)
def test_what_is_catastrophic(fgsm: float, pgd: float, alarm: bool) -> None:
    assert overfitting(fgsm, pgd) == alarm


@pytest.mark.parametrize(
    ("changes", "watched"),
    [
        ({"attack": {"steps": 1}}, True),
        ({"attack": {"steps": 2}}, False),
        ({"attack": {"steps": 2}, "eval": {"fgsm": True}}, True),
        ({"attack": {"steps": 1}, "eval": {"fgsm": False}}, False),
    ],
)
def test_training_warns_of_it(
    tiny: Callable[..., TrainConfig],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    changes: dict[str, Any],
    watched: bool,
) -> None:
    def always_right(model: nn.Module, data: Any, config: TrainConfig, **_: Any) -> ClassStats:
        return ClassStats(10).update(10 * F.one_hot(data.labels, 10).float(), data.labels)

    monkeypatch.setattr("fairtat.training.trainer.validate_fgsm", always_right)
    monkeypatch.setattr("fairtat.training.trainer.overfitting", lambda fgsm, pgd: fgsm == 1.0 and pgd < 1.0)
    config = tiny(**changes)
    splits = load_splits("digits", val=0.05, test=0.6)
    trainer = Trainer(config, splits, build("mlp", 10, 1, (8, 8), width=32))
    with caplog.at_level(logging.WARNING, "fairtat"):
        metrics = trainer.run_epoch()
    assert (metrics.val_fgsm is not None) == watched
    told = "epoch 1: catastrophic overfitting: validation accuracy is 1.000 under a single step"
    assert (told in caplog.text) == watched
