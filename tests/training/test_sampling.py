"""Epochs that do not draw each image once: by CFOL's adversary, class-balanced, and with extra images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from fairtat import load_run
from fairtat.data import Splits, batches, joined, load_extra, load_splits
from fairtat.errors import UserError
from fairtat.models import build
from fairtat.training import TrainConfig, Trainer, resume, train
from fairtat.training.pseudo_labels import labeled
from fairtat.training.sampling import balanced_rows, drawn_by_class, epoch_order, mixed_order

pytest.importorskip("sklearn")


def test_classes_by_their_shares_and_samples_alike() -> None:
    data = load_splits("digits", val=0.05, test=0.2).train
    shares = torch.arange(1, 11, dtype=torch.float64) / 55
    drawn = [data.take(drawn_by_class(data, shares, seed)) for seed in range(20)]
    labels = torch.cat([part.labels for part in drawn])
    observed = torch.bincount(labels, minlength=10).numpy()
    assert chisquare(observed, shares.numpy() * observed.sum()).pvalue > 1e-3
    ids = torch.cat([part.ids for part in drawn])
    of_class = ids[labels == 9]
    members = data.ids[data.labels == 9]
    times = torch.stack([(of_class == one).sum() for one in members]).numpy()
    assert chisquare(times).pvalue > 1e-3
    assert set(of_class.tolist()) <= set(members.tolist())
    assert torch.equal(drawn[0].ids, data.ids[drawn_by_class(data, shares, 0)])
    assert not torch.equal(drawn[0].ids, drawn[1].ids)


def test_a_class_without_a_share_or_samples_is_not_drawn() -> None:
    data = load_splits("digits", val=0.05, test=0.2).train
    few = data.take((data.labels < 3).nonzero()[:, 0])
    drawn = drawn_by_class(few, torch.tensor([0.0, 0.2, 0.2, *[0.6 / 7] * 7]).double(), 1)
    assert set(few.labels[drawn].tolist()) == {1, 2}


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


@pytest.mark.parametrize(
    ("balance", "expected"), [(1.0, [37, 37, 0, 36]), (0.0, [100, 9, 0, 1]), (0.5, [78, 24, 0, 8])]
)
def test_balanced_epochs_have_the_class_counts_of_the_formula(balance: float, expected: list[int]) -> None:
    labels = torch.tensor([0] * 100 + [1] * 9 + [3])[torch.randperm(110, generator=torch.Generator().manual_seed(0))]
    rows = balanced_rows(labels, 4, balance, seed=3)
    assert torch.bincount(labels[rows], minlength=4).tolist() == expected
    times = torch.bincount(rows, minlength=110)
    for label in (0, 1, 3):  # no image of a class is preferred
        assert int(times[labels == label].max() - times[labels == label].min()) <= 1
    assert torch.equal(rows, balanced_rows(labels, 4, balance, seed=3))
    assert not torch.equal(rows, balanced_rows(labels, 4, balance, seed=4))
    assert len(set(labels[rows[:55]].tolist()) - {3}) == 2  # shuffled: not class by class


def test_mixed_batches_have_the_share_of_extra_images_and_repeat_none_early() -> None:
    rows = torch.randperm(103)
    order = mixed_order(rows, first=103, extra=1000, share=0.7, batch_size=10, seed=5)
    assert order.own is not None
    assert list(order.own) == [3] * 10 + [1]  # floor(0.7 * 3) = 2 extra images in the last one
    batches_of = order.rows.split(10)
    for part, own in zip(batches_of, order.own, strict=True):
        assert bool((part[:own] < 103).all())
        assert bool((part[own:] >= 103).all())
    assert len(order.rows) == len(order.rows.unique()) == 103
    few = mixed_order(rows, first=103, extra=20, share=0.7, batch_size=10, seed=5).rows
    times = torch.bincount(few[few >= 103] - 103, minlength=20)
    assert int(times.max() - times.min()) <= 1


@pytest.fixture
def splits() -> Splits:
    return load_splits("digits", val=0.05, test=0.6)


def extra_file(folder: Path, splits: Splits, *, labels: bool = True) -> str:
    """The test images, as uint8 with 255 as white, which the data store with 16 as white."""
    images = (splits.test.images.float() / 16 * 255).round().to(torch.uint8).numpy()
    arrays = {"image": images, "label": splits.test.labels.numpy()} if labels else {"image": images}
    np.savez(folder / "extra.npz", **arrays)
    return str(folder / "extra.npz")


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("placement", ["device", "stream"])
def test_batches_of_both_sets_hold_the_images_of_both(
    tmp_path: Path, splits: Splits, processes: int, placement: str
) -> None:
    if placement == "stream":
        splits = load_splits("digits", val=0.05, test=0.6, placement="stream", workers=0)
        extra = load_extra(extra_file(tmp_path, load_splits("digits", val=0.05, test=0.6)), splits)
    else:
        extra = load_extra(extra_file(tmp_path, splits), splits)
    pool, own = joined(splits.train, extra), load_splits("digits", val=0.05, test=0.6).train
    order = epoch_order(own, len(pool), batch_size=50, seed=1, shares=None, balance=0.0, extra_share=0.6)
    pixels = {int(k): own.floats(own.images[row]) for row, k in enumerate(own.ids)}
    pixels |= {int(k): extra.floats(extra.images[row]) for row, k in enumerate(extra.ids)}
    seen = 0
    shards = [batches(pool, 50, seed=1, shard=(rank, processes), order=order) for rank in range(processes)]
    for parts in zip(*shards, strict=True):
        assert max(len(part.y) for part in parts) - min(len(part.y) for part in parts) <= 1
        for part in parts:
            assert part.own is not None
            assert (part.ids < 1797).tolist() == [k < part.own for k in range(len(part.y))]
            assert all(torch.equal(x, pixels[int(k)]) for x, k in zip(part.x, part.ids, strict=True))
            seen += len(part.y)
    assert seen == len(own)


def test_extra_images_train_and_do_not_count(tiny: Callable[..., TrainConfig], tmp_path: Path, splits: Splits) -> None:
    splits = replace(splits, extra=load_extra(extra_file(tmp_path, splits), splits))
    for accumulate in (1, 3):
        trainer = Trainer(
            tiny(data={"extra_share": 0.5}, accumulate=accumulate), splits, build("mlp", 10, 1, (8, 8), width=32)
        )
        trainer.run_epoch()
        assert trainer.fair.last is not None
        sizes = [min(64, len(splits.train) - start) for start in range(0, len(splits.train), 64)]
        assert int(trainer.fair.last.count.sum()) == sum(n - n // 2 for n in sizes)


def test_a_run_with_extra_images_resumes_to_the_same_bits(
    tiny: Callable[..., TrainConfig],
    tmp_path: Path,
    splits: Splits,
    assert_same_run: Callable[[Path, Path], None],
) -> None:
    data = {"extra": extra_file(tmp_path, splits), "extra_share": 0.5, "balance": 0.5, "augment": "crop_flip", "pad": 1}
    whole = train(tiny(data=data, epochs=3, output=str(tmp_path / "whole"))).path
    stopped = tiny(data=data, epochs=3)
    asked = iter([False] * 15 + [True] * 1000)
    assert train(stopped, should_stop=lambda: next(asked)).interrupted
    resume(tmp_path / "run")
    assert_same_run(whole, tmp_path / "run")


def test_pseudo_labels_are_the_predictions_of_the_run(
    tiny: Callable[..., TrainConfig], tmp_path: Path, splits: Splits
) -> None:
    teacher = train(tiny(epochs=1)).path
    file = extra_file(tmp_path, splits, labels=False)
    extra = load_extra(file, splits)
    assert set(extra.labels.tolist()) == {-1}
    with pytest.raises(UserError, match=r"images have no label; set data.pseudo_labels"):
        train(tiny(data={"extra": file}, output=str(tmp_path / "refused")))
    model = load_run(teacher).model
    expected = model(extra.floats(extra.images)).argmax(1)
    assert torch.equal(labeled(extra, str(teacher), splits).labels, expected)
    extra.labels[:5] = 7
    assert labeled(extra, str(teacher), splits).labels.tolist() == [7] * 5 + expected[5:].tolist()


def test_other_pseudo_labels_are_noticed_when_a_run_resumes(
    tiny: Callable[..., TrainConfig], tmp_path: Path, splits: Splits
) -> None:
    file = extra_file(tmp_path, splits)
    asked = iter([False] * 15 + [True] * 1000)
    train(tiny(data={"extra": file}, epochs=3), should_stop=lambda: next(asked))
    stored = dict(np.load(file))
    np.savez(file, image=stored["image"], label=(stored["label"] + 1) % 10)
    with pytest.raises(UserError, match=r"\(pseudo-\)labels are not those that the run began with"):
        resume(tmp_path / "run")
