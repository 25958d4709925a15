"""Batches that are augmented as a whole: what becomes of images, labels, attacks and counts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fairtat.data import Batch
from fairtat.errors import UserError
from fairtat.models import build
from fairtat.training import TrainConfig
from fairtat.training.augment import make_batch_augment
from fairtat.training.config import AugmentConfig, Number, from_dict, make_fairness
from fairtat.training.distributed import World
from fairtat.training.objectives import make_objective
from fairtat.training.optim.parameters import make_optimizer
from fairtat.training.optim.step import TrainingStep


def batch_of(n: int, channels: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(n, channels, 9, 7, generator=generator)
    return Batch(x, torch.randint(5, (n,), generator=generator), torch.arange(n))


def augment(channels: int = 3, **settings: Any) -> Any:
    made = make_batch_augment(AugmentConfig(**settings), 5, (channels, 9, 7))
    assert made is not None
    return made


@pytest.mark.parametrize("key", ["mixup", "cutmix"])
def test_a_mixed_image_is_made_of_the_images_of_its_labels(key: str) -> None:
    batch = batch_of(11)
    torch.manual_seed(0)
    for _ in range(20):
        mixed, labels = augment(**{key: Number(1.0)})(batch)
        torch.testing.assert_close(labels.sum(1), torch.ones(11))
        partner, partner_y = batch.x.roll(1, 0), batch.y.roll(1, 0)
        different = batch.y != partner_y
        share = labels.gather(1, batch.y[:, None])[:, 0][different][0]
        expected = share * F.one_hot(batch.y, 5) + (1 - share) * F.one_hot(partner_y, 5)
        torch.testing.assert_close(labels, expected.float())
        own, other = (mixed.x == batch.x), (mixed.x == partner)
        if key == "mixup":
            torch.testing.assert_close(mixed.x, share * batch.x + (1 - share) * partner)
        else:
            assert (own | other).all()
            assert float(own.float().mean()) == pytest.approx(float(share), abs=1e-5)
        assert torch.equal(mixed.y[different], (batch.y if share >= 0.5 else partner_y)[different])
        assert torch.equal(mixed.ids, batch.ids)


def test_some_batches_are_left_alone() -> None:
    torch.manual_seed(0)
    mix, batch = augment(mixup=Number(0.4), cutmix=Number(1.0), mix_share=Number(0.5)), batch_of(4)
    mixed = sum(mix(batch)[1] is not None for _ in range(200))
    assert 70 < mixed < 130
    assert augment(mixup=Number(1.0))(batch_of(0))[1] is None


@pytest.mark.parametrize("side", [1, 3, 4, 7])
def test_cutout_blackens_one_square(side: int) -> None:
    torch.manual_seed(0)
    batch = batch_of(400)._replace(x=torch.ones(400, 2, 9, 7))
    cut, labels = augment(2, cutout=side)(batch)
    assert labels is None
    assert torch.equal(cut.x[:, 0], cut.x[:, 1])
    black = cut.x[:, 0] == 0
    heights, widths = black.any(2).sum(1), black.any(1).sum(1)
    assert torch.equal(black.sum((1, 2)), heights * widths)  # a rectangle: a square, or its part inside
    assert int(heights.max()) == int(widths.max()) == side
    assert int(heights.min()) >= (side + 1) // 2
    assert black.any(0).all()  # it may lie anywhere


@pytest.mark.parametrize("channels", [1, 3])
def test_randaugment_keeps_images_images(channels: int) -> None:
    torch.manual_seed(0)
    batch = batch_of(37, channels)
    seen = augment(channels, randaugment=2)(batch)[0].x
    assert seen.shape == batch.x.shape
    assert seen.dtype == torch.float32
    assert 0 <= float(seen.min()) <= float(seen.max()) <= 1
    assert float(((seen - batch.x).flatten(1).abs().amax(1) > 0).float().mean()) > 0.3


def test_what_does_not_fit_the_images() -> None:
    with pytest.raises(UserError, match=r"augment.cutout is 8; expected at most 7, the image"):
        augment(cutout=8)
    with pytest.raises(UserError, match=r"augment.randaugment needs images of 1 or 3 channels, got 2"):
        augment(2, randaugment=1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fairness": {"targets": "random"}}, "fairness.targets is random; expected none with augment.mixup"),
        ({"fairness": {"margins": "G-rob"}}, "fairness.margins is G-rob; expected fixed"),
        ({"fairness": {"weights": "wat"}}, "fairness.weights is wat; expected none"),
        ({"objective": {"faal": 0.5}}, "objective.faal is 0.5; expected null"),
        ({"objective": {"name": "trades", "ccr": True}}, "objective.ccr is true; expected false"),
        ({"objective": {"name": "mart"}}, "objective.name is mart; expected at or trades"),
    ],
)
def test_rules_of_one_class_refuse_mixed_images(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_dict({"augment": {"mixup": 0.2}, **values})


@pytest.mark.parametrize("objective", ["at", "trades"])
def test_the_loss_of_mixed_images_by_its_equation(tiny: Callable[..., TrainConfig], objective: str) -> None:
    config = tiny(objective={"name": objective, "beta": 2.0, "label_smoothing": 0.2})
    torch.manual_seed(0)
    model, fair = build("mlp", 10, 1, (8, 8), width=16), make_fairness(config, 10)
    batch = Batch(torch.rand(9, 1, 8, 8), torch.arange(9), torch.arange(9))
    labels = torch.rand(9, 10).softmax(1)
    made = make_objective(config)
    examples = made.attack(model, batch, fair=fair, target=None, seed=0)._replace(labels=labels)
    loss = float(made.loss(model, batch, examples, fair=fair).loss)
    exact, q = copy.deepcopy(model).double(), 0.8 * labels.double() + 0.02
    clean, adversarial = (exact(images.double()).log_softmax(1) for images in (batch.x, examples.x_adv))
    expected = -(q * (adversarial if objective == "at" else clean)).sum(1)
    if objective == "trades":
        expected = expected + 2 * (clean.exp() * (clean - adversarial)).sum(1)
    assert loss == pytest.approx(float(expected.mean()), rel=1e-5)


def test_parts_of_a_mixed_batch_add_up(tiny: Callable[..., TrainConfig]) -> None:
    batch = Batch(torch.rand(13, 1, 8, 8), torch.arange(13) % 10, torch.arange(13))
    models: list[nn.Module] = []
    counts = []
    for parts in (1, 5):
        config = tiny(accumulate=parts, augment={"cutmix": 1.0})
        torch.manual_seed(0)
        model, fair = build("mlp", 10, 1, (8, 8), width=16), make_fairness(config, 10)
        step = TrainingStep(
            config, model, make_optimizer(config.optim, model), fair, World(), torch.device("cpu"),
            augment=make_batch_augment(config.augment, 10, (1, 8, 8)),
        )  # fmt: skip
        torch.manual_seed(1)
        step(batch, 13, lr=0.2, epoch=0, seed=7)
        models.append(model)
        counts.append(fair.stats.confusion)
    assert torch.equal(*counts)
    for one, many in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one, many, rtol=0, atol=1e-6)
