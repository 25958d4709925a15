"""An epoch of FAIR-TAT with PGD-10: fairtat's trainer beside the published loop, and beside the sum of its parts.

All train the same model on the same data: targets by CFPS, radii by robust accuracy, batches of 128. The floor is
as many attacks and training passes as an epoch has batches, without data, targets, statistics and whatever else a
loop does. Validation is left out in every loop.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count, islice
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from harness import peers
from harness.attacks import BF16_LAST, EPS, FP32, STEP_SIZE, STEPS, TF32, Precision, attack_with, no_fallback
from harness.case import Benchmark, Case, Contestant, Device, Entrant, Outcome, Role, Settings, Verify
from harness.equality import Mismatch
from ops.bench_sample_targets import published_loop as published_targets
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fairtat import models
from fairtat.data import ImageData, Splits, image_data, load_splits
from fairtat.seeds import derive

BATCH = 128
RATE, MOMENTUM, DECAY = 0.05, 0.9, 5e-4
LAM, TAU = 0.5, 2.0
CHECKED = 4  # batches that each contestant trains on before the proof: the loss is on its way down
MOST_LOSS = 0.1  # relative; each draws targets and starts in its own way

PARTS, PUBLISHED = "sum of the parts", "published loop"

Steps = Iterator[nn.Module]  # after each step the model as it is then, epoch after epoch


@dataclass(frozen=True)
class Task:
    """What all contestants train: a copy each of one model, from the same start."""

    splits: Splits
    model: nn.Module
    device: str

    @property
    def train(self) -> ImageData:
        assert isinstance(self.splits.train, ImageData)
        return self.splits.train

    @property
    def steps(self) -> int:
        return -(-len(self.train) // BATCH)

    def problem(self, model: nn.Module, p: Precision, count: int) -> peers.Problem:
        """An attack of the first images towards the next class."""
        x, y = self.train.floats(self.train.images[:count]), self.train.labels[:count]
        classes = self.train.num_classes
        return peers.Problem(model, p.images(x), (y + 1) % classes, classes, EPS, STEP_SIZE, STEPS)


def task_of(settings: Settings, data: str, model: str) -> Task:
    splits = (random_images(settings) if data == "random" else load_splits(data, seed=0)).to(settings.place)
    torch.backends.cudnn.benchmark = True  # for every contestant; on a GPU only
    torch.manual_seed(0)
    channels, height, width = splits.train.image_shape
    name = "digits_cnn" if settings.rehearsal else model
    built = models.build(name, splits.train.num_classes, channels, (height, width)).train()
    return Task(splits, built.to(settings.place), settings.place)


def random_images(settings: Settings) -> Splits:
    """Shaped as CIFAR-10: 50,000 images, each its class's pattern under noise."""
    n, size = (512, 8) if settings.rehearsal else (50_000, 32)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(10, (n,), generator=generator)
    patterns = torch.randint(96, 160, (10, 3, size, size), generator=generator, dtype=torch.uint8)
    noise = torch.randint(64, (n, 3, size, size), generator=generator, dtype=torch.uint8)
    part = image_data("random", patterns[labels] + noise, labels)
    few = part.take(torch.arange(BATCH))
    return Splits(part, few, few)


def published_steps(task: Task, p: Precision) -> Steps:
    """In the style of the published code, defects left out, the attack in eval mode as in the other loops here.

    Images come from a loader on the host, targets from a rejection loop, radii and statistics from loops over samples;
    an extra forward of the clean images follows each step.
    """
    model, data, classes = p.model(task.model), task.train, task.train.num_classes
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=MOMENTUM, weight_decay=DECAY)
    images = TensorDataset(data.floats(data.images).cpu(), data.labels.cpu())
    weight = torch.ones(classes, device=task.device)
    class_eps = torch.full((classes,), EPS, device=task.device)
    for epoch in count():
        seen, right, landed = (np.zeros(classes) for _ in range(3))
        # The batches of fairtat's trainer: at the start, much depends on them.
        order = torch.Generator().manual_seed(derive(0, "order", epoch))
        for x_host, y_host in DataLoader(images, BATCH, sampler=torch.randperm(len(images), generator=order).tolist()):
            x, y = x_host.to(task.device), y_host.to(task.device)
            target = published_targets(y, weight)
            model.eval()
            start = torch.empty_like(x).uniform_(-1.0, 1.0)
            x_adv = peers.published_pgd(model, x, target, class_eps[y], STEP_SIZE, STEPS, start)
            model.train()
            logits = model(x_adv)
            optimizer.zero_grad()
            F.cross_entropy(logits, y).backward()
            optimizer.step()
            with torch.no_grad():
                model(x)
            for predicted, label in zip(logits.argmax(1).cpu().numpy(), y_host.numpy(), strict=True):
                seen[label] += 1
                if predicted == label:
                    right[label] += 1
                else:
                    landed[predicted] += 1
            yield model
        robust = torch.tensor(right / seen, dtype=torch.float32, device=task.device)
        class_eps = (LAM + robust) * EPS
        share = torch.tensor(landed / max(landed.sum(), 1.0), dtype=torch.float32, device=task.device)
        weight = torch.softmax(TAU * share, 0)


def trainer_steps(task: Task, p: Precision, engine: str) -> Steps:
    """fairtat's own training system, without its validation."""
    from fairtat.training import AttackConfig, FairnessConfig, OptimConfig, TrainConfig, Trainer
    from fairtat.training.config import Number

    engine = engine if task.device == "cuda" or engine != "graph" else "eager"
    config = TrainConfig(
        attack=AttackConfig(eps=Number(EPS), step_size=Number(STEP_SIZE), steps=STEPS, engine=engine),  # type: ignore[arg-type]
        fairness=FairnessConfig(targets="cfps", margins="G-rob", lam=Number(LAM), tau=Number(TAU)),
        optim=OptimConfig(lr=Number(RATE), momentum=Number(MOMENTUM), weight_decay=Number(DECAY), schedule="constant"),
        amp="none" if p.amp is None else "bf16",
        channels_last=p.channels_last,
        batch_size=BATCH,
    )
    trainer = Trainer(config, task.splits, p.model(task.model))
    while True:
        for _ in trainer.train_steps():
            yield trainer.model
        trainer.fair.end_epoch()
        trainer.epoch += 1


def epochs(task: Task, steps: Callable[[Task, Precision], Steps], p: Precision, most: int | None = None) -> Entrant:
    """A run is one more epoch of one training, on a GPU at most ``most`` of its batches.

    An answer comes from a training from the start.
    """
    going = steps(task, p)
    length = min(task.steps, most) if most and task.device == "cuda" else task.steps

    def run(steps: Steps, length: int) -> nn.Module:
        with p():
            *_, model = islice(steps, length)
        return model

    def outcome() -> Outcome:
        with no_fallback():
            return {"robust_loss": robust_loss(task, run(steps(task, p), CHECKED))}

    return Entrant(lambda: run(going, length), outcome, share=length / task.steps)


def robust_loss(task: Task, model: nn.Module) -> Tensor:
    """() the mean loss of a model under the textbook attack on the first images, with their batch statistics."""
    judge = copy.deepcopy(model).train().requires_grad_(False).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    problem = task.problem(judge, FP32, 2 * BATCH)
    with FP32():
        x_adv = peers.textbook(problem)()
        with torch.no_grad():
            return F.cross_entropy(judge(x_adv), task.train.labels[: 2 * BATCH])


def parts(task: Task, p: Precision, engine: str) -> Entrant:
    """As many attacks and training passes as an epoch has batches, and nothing around them."""
    model = p.model(task.model)
    problem, y = task.problem(model, p, BATCH), task.train.labels[:BATCH]
    attack = attack_with(model, p, task.device, engine=engine, init="uniform")
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=MOMENTUM, weight_decay=DECAY, fused=True)

    def run() -> None:
        with p():
            for _ in range(task.steps):
                x_adv = attack(problem.x, problem.target, return_info=False)
            for _ in range(task.steps):
                optimizer.zero_grad(set_to_none=True)
                with p.autocast(task.device):
                    loss = F.cross_entropy(model(x_adv), y)
                loss.backward()
                optimizer.step()

    return Entrant(run, share=task.steps * BATCH / len(task.train))  # the last batch is smaller


def as_the_published_loop(task: Task) -> Verify:
    """With the published loop's robust loss: a weaker attack or a faster descent would show in it."""
    with FP32():
        *_, model = islice(published_steps(task, FP32), CHECKED)
    expected = float(robust_loss(task, model))

    def verify(contestant: str, outcome: Outcome) -> dict[str, float]:
        found = float(outcome["robust_loss"])
        if not abs(found - expected) <= MOST_LOSS * expected:
            raise Mismatch(f"the robust loss is {found:.4f}, expected {expected:.4f}")
        return {"robust_loss": found}

    return verify


def trained(
    name: str, role: Role, on: Device, steps: Callable[..., Steps], p: Precision, most: int | None = None,
    **more: Any,
) -> Contestant[Task]:  # fmt: skip
    return Contestant(name, role, lambda task: epochs(task, partial(steps, **more), p, most), on=(on,))


def case(label: str, data: str, model: str, **about: Any) -> Case[Task]:
    return Case(label, lambda settings, seed: task_of(settings, data, model), headline=True, **about)


BENCHMARK = Benchmark(
    name="training",
    question="What does an epoch of FAIR-TAT with PGD-10 cost beside its attacks and one training pass?",
    contestants=(
        trained(PUBLISHED, "published", "cpu", published_steps, FP32),
        trained("Trainer, eager", "fairtat", "cpu", trainer_steps, FP32, engine="eager"),
        Contestant(f"{PARTS}, eager", "floor", partial(parts, p=FP32, engine="eager"), on=("cpu",)),
        trained("Trainer, compiled", "fairtat", "cpu", trainer_steps, FP32, engine="compiled"),
        Contestant(f"{PARTS}, compiled", "floor", partial(parts, p=FP32, engine="compiled"), on=("cpu",)),
        trained("fairtat", "fairtat", "cuda", trainer_steps, BF16_LAST, engine="graph"),
        trained(PUBLISHED, "published", "cuda", published_steps, TF32, most=20),
        Contestant(PARTS, "floor", partial(parts, p=BF16_LAST, engine="graph"), on=("cuda",)),
    ),
    baseline={"cpu": f"{PARTS}, eager", "cuda": PARTS},
    verify=as_the_published_loop,
    rule=f"after {CHECKED} batches from the same start, robust loss within {MOST_LOSS:.0%} of the published loop's",
    settings={"eps": "8/255", "step_size": "2/255", "steps": STEPS, "batch": BATCH, "lr": RATE},
    cases=(
        case("digits, small CNN", "digits", "digits_cnn", quick=True),
        case("mnist5k, small CNN", "mnist5k", "mnist_cnn"),
        case("50,000x3x32x32, PreActResNet-18", "random", "preact_resnet18", quick=True, device="cuda"),
    ),
)


def test_training(case: Case[Task], compare: Callable[[Case[Task]], None]) -> None:
    compare(case)
