"""An optimizer step against the same step written out by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fairtat import ClassStats, fast_pgd
from fairtat.data import Batch, load_splits
from fairtat.models import build
from fairtat.training import TrainConfig, Trainer
from fairtat.training.config import make_fairness
from fairtat.training.distributed import World
from fairtat.training.optim.parameters import make_optimizer
from fairtat.training.optim.step import TrainingStep

CPU = torch.device("cpu")


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(torch.rand(13, 1, 8, 8, generator=generator), torch.arange(13) % 10, torch.arange(50, 63))


def network(config: TrainConfig) -> nn.Module:
    torch.manual_seed(0)
    return build(config.model.name, 10, 1, (8, 8), **config.model.options).train()


def step_with(config: TrainConfig, model: nn.Module, *batches: Batch) -> list[float]:
    """Steps at lr 0.2; returns the sums of the losses."""
    fair = make_fairness(config, 10)
    step = TrainingStep(config, model, make_optimizer(config.optim, model), fair, World(), CPU)
    return [float(step(batch, len(batch.y), lr=0.2, epoch=0, seed=7)) for batch in batches]


def largest_difference(one: nn.Module, two: nn.Module) -> float:
    pairs = zip(one.parameters(), two.parameters(), strict=True)
    return max(float((ours - theirs).detach().abs().max()) for ours, theirs in pairs)


@pytest.mark.parametrize("clip", [None, 0.3])
def test_two_steps_are_those_of_the_textbook(
    tiny: Callable[..., TrainConfig], batch: Batch, clip: float | None
) -> None:
    config = tiny(optim={"momentum": 0.9, "weight_decay": 0.01, "clip": clip})
    model = network(config)
    by_hand = copy.deepcopy(model)
    sums = step_with(config, model, batch, batch)

    velocity = [torch.zeros_like(p) for p in by_hand.parameters()]
    for expected_sum in sums:
        x_adv = fast_pgd(
            by_hand, batch.x, batch.y, eps=0.05, step_size=0.03, steps=2, seed=7, sample_ids=batch.ids
        )  # fmt: skip
        losses = F.cross_entropy(by_hand(x_adv), batch.y, reduction="none")
        assert expected_sum == pytest.approx(float(losses.detach().sum()), rel=1e-5)
        gradients = torch.autograd.grad(losses.mean(), list(by_hand.parameters()))
        norm = torch.sqrt(sum(g.double().square().sum() for g in gradients))
        assert clip is None or norm > clip
        scale = 1.0 if clip is None else float(clip / norm)
        with torch.no_grad():
            for p, g, v in zip(by_hand.parameters(), gradients, velocity, strict=True):
                v.mul_(0.9).add_(g * scale + 0.01 * p)
                p.sub_(0.2 * v)
    assert largest_difference(model, by_hand) < 1e-6


@pytest.mark.parametrize("objective", ["at", "trades", "mart"])
@pytest.mark.parametrize("accumulate", [2, 5])
def test_parts_add_up_to_the_whole_batch(
    tiny: Callable[..., TrainConfig], batch: Batch, accumulate: int, objective: str
) -> None:
    # 13 samples in 5 parts: 3, 3, 3, 2, 2.
    models = []
    for parts in (1, accumulate):
        config = tiny(accumulate=parts, objective={"name": objective}, optim={"clip": 0.5})
        models.append(network(config))
        step_with(config, models[-1], batch, batch)
    assert largest_difference(*models) < 1e-6
    assert largest_difference(models[0], network(config)) > 1e-3


def test_parts_count_and_weight_classes_as_the_whole_batch_does(tiny: Callable[..., TrainConfig], batch: Batch) -> None:
    models, states = [], []
    for parts in (1, 4):
        config = tiny(accumulate=parts, fairness={"weights": "cfol", "weight_options": {"eta": 5.0}})
        models.append(network(config))
        fair = make_fairness(config, 10)
        step = TrainingStep(config, models[-1], make_optimizer(config.optim, models[-1]), fair, World(), CPU)
        for epoch in range(2):  # the weights of the second epoch follow the first
            step(batch, len(batch.y), lr=0.2, epoch=epoch, seed=7)
            if epoch == 0:
                fair.end_epoch()
        assert fair.class_weight is not None
        assert fair.class_weight.unique().numel() > 1
        states.append(fair)
    one, many = states
    assert torch.equal(one.stats.confusion, many.stats.confusion)
    assert torch.equal(one.last.confusion, many.last.confusion)
    assert torch.equal(one.class_weight, many.class_weight)
    assert largest_difference(*models) < 1e-6


def test_low_precision_is_close_to_full(tiny: Callable[..., TrainConfig], batch: Batch) -> None:
    full, bf16, fp16 = network(tiny()), network(tiny()), network(tiny())
    start = network(tiny())
    step_with(tiny(), full, batch)
    step_with(tiny(amp="bf16"), bf16, batch)
    step_with(tiny(amp="fp16"), fp16, batch)
    moved = largest_difference(full, start)
    # bfloat16 has 8 bits of precision, float16 has 11; a sign in the attack may turn as well.
    assert 0 < largest_difference(full, bf16) < 0.1 * moved
    assert 0 < largest_difference(full, fp16) < 0.05 * moved
    assert all(p.dtype == torch.float32 for p in bf16.parameters())


def test_channels_last_reaches_the_convolutions(tiny: Callable[..., TrainConfig]) -> None:
    config = tiny(model={"name": "digits_cnn", "options": {"width": 8}}, channels_last=True)
    splits = load_splits("digits", val=0.05, test=0.6)
    seen = []
    plain, last = (network(config), network(config))
    trainer = Trainer(config, splits, last)
    convolutions = [m for m in last.modules() if isinstance(m, nn.Conv2d)]
    convolutions[1].register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
    )
    metrics = trainer.run_epoch()
    assert seen
    assert all(seen)
    assert all(m.weight.is_contiguous(memory_format=torch.channels_last) for m in convolutions)
    reference = Trainer(tiny(model=config.model.__dict__), splits, plain).run_epoch()
    assert metrics.train_loss == pytest.approx(reference.train_loss, rel=0.02)


class Waits(TorchDispatchMode):
    """Counts what would make the host wait for a GPU: reading a number, or a size that depends on data."""

    NAMES = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::item", "aten::equal")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.name().partition(".")[0] in self.NAMES:
            self.found.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "changes",
    [
        {"fairness": {"targets": "cfps", "margins": "G-rob"}},
        {"objective": {"name": "trades"}, "optim": {"clip": 1.0}, "averaging": {"name": "ema", "every": "step"}},
        {"awp": {"gamma": 0.01}, "accumulate": 2, "amp": "bf16"},
    ],
    ids=["fair-tat", "trades-clip-ema", "awp-accumulate-bf16"],
)
def test_no_step_waits_for_the_device(tiny: Callable[..., TrainConfig], changes: dict[str, Any]) -> None:
    config = tiny(model={"name": "digits_cnn", "options": {"width": 4}}, **changes)
    trainer = Trainer(config, load_splits("digits", val=0.05, test=0.6), network(config))
    steps = trainer.train_steps()
    next(steps)
    waits = Waits()
    with waits:
        for _ in steps:
            pass
    assert waits.found == []
    with waits:
        float(torch.ones(()))
    assert len(waits.found) == 1  # it would have been seen


@pytest.mark.slow
def test_a_compiled_pass_takes_the_same_steps(tiny: Callable[..., TrainConfig], batch: Batch) -> None:
    config = tiny(objective={"name": "trades"})
    eager, compiled = network(config), network(config)
    step_with(config, eager, batch, batch)
    step_with(tiny(objective={"name": "trades"}, compile=True), compiled, batch, batch)
    assert largest_difference(eager, compiled) < 1e-5
    assert list(compiled.state_dict()) == list(eager.state_dict())


def test_statistics_under_weight_perturbation_are_those_of_the_weights(
    tiny: Callable[..., TrainConfig], batch: Batch
) -> None:
    config = tiny(awp={"gamma": 0.5})
    model = network(config)
    with torch.no_grad():  # labels that the model gives, so that a large perturbation changes what is right
        batch = batch._replace(y=model(batch.x).argmax(1))
    by_hand, fair = copy.deepcopy(model), make_fairness(config, 10)
    x_adv = fast_pgd(by_hand, batch.x, batch.y, eps=0.05, step_size=0.03, steps=2, seed=7, sample_ids=batch.ids)
    expected = ClassStats(10).update(by_hand(x_adv).detach(), batch.y)
    step = TrainingStep(config, model, make_optimizer(config.optim, model), fair, World(), CPU)
    loss = step(batch, len(batch.y), lr=0.2, epoch=0, seed=7)
    assert torch.equal(fair.stats.confusion, expected.confusion)
    assert float(fair.stats.loss_sum.sum()) == pytest.approx(float(expected.loss_sum.sum()), rel=1e-5)
    assert float(loss) > 1.05 * float(expected.loss_sum.sum())  # which is minimised where the weights hurt
