"""CFOL's sampling form: classes by the adversary's distribution, samples of a class alike."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scipy.stats import chisquare

from fairtat.data import load_splits
from fairtat.models import build
from fairtat.training import TrainConfig, Trainer
from fairtat.training.sampling import drawn_by_class

pytest.importorskip("sklearn")


def test_classes_by_their_shares_and_samples_alike() -> None:
    data = load_splits("digits", val=0.05, test=0.2).train
    shares = torch.arange(1, 11, dtype=torch.float64) / 55
    drawn = [drawn_by_class(data, shares, seed) for seed in range(20)]
    labels = torch.cat([part.labels for part in drawn])
    observed = torch.bincount(labels, minlength=10).numpy()
    assert chisquare(observed, shares.numpy() * observed.sum()).pvalue > 1e-3
    ids = torch.cat([part.ids for part in drawn])
    of_class = ids[labels == 9]
    members = data.ids[data.labels == 9]
    times = torch.stack([(of_class == one).sum() for one in members]).numpy()
    assert chisquare(times).pvalue > 1e-3
    assert set(of_class.tolist()) <= set(members.tolist())
    first = drawn[0]
    where = {int(one): k for k, one in enumerate(data.ids)}
    rows = torch.tensor([where[int(one)] for one in first.ids])
    assert torch.equal(first.images, data.images[rows])  # images, labels and ids stay together
    assert torch.equal(first.labels, data.labels[rows])
    assert torch.equal(first.ids, drawn_by_class(data, shares, 0).ids)
    assert not torch.equal(first.ids, drawn[1].ids)


def test_a_class_without_a_share_or_samples_is_not_drawn() -> None:
    data = load_splits("digits", val=0.05, test=0.2).train
    few = data.take((data.labels < 3).nonzero()[:, 0])
    drawn = drawn_by_class(few, torch.tensor([0.0, 0.2, 0.2, *[0.6 / 7] * 7]).double(), 1)
    assert set(drawn.labels.tolist()) == {1, 2}


def test_an_epoch_of_cfol_has_the_classes_that_its_adversary_draws(tiny: Callable[..., TrainConfig]) -> None:
    rules = {"weights": "cfol", "weight_options": {"sampling": True, "eta": 20.0, "gamma": 0.1}}
    config = tiny(fairness=rules)
    trainer = Trainer(config, load_splits("digits", val=0.05, test=0.6), build("mlp", 10, 1, (8, 8), width=32))
    trainer.run_epoch()
    rule = trainer.fair.weight_rule
    assert rule is not None
    assert trainer.fair.last is not None
    plain = torch.bincount(trainer.splits.train.labels, minlength=10)
    assert torch.equal(trainer.fair.last.count, plain)  # the warm-up: the data as they are
    shares = rule.class_shares
    assert shares is not None
    assert shares.max() > 3 * shares.min()  # so that drawing the data as they are would show
    metrics = trainer.run_epoch()
    count = trainer.fair.last.count.numpy()
    assert count.sum() == len(trainer.splits.train)
    assert chisquare(count, shares.numpy() * count.sum()).pvalue > 1e-3
    assert metrics.class_weight is None  # drawn, not weighted
