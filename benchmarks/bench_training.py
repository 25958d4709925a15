"""An epoch of FAIR-TAT with PGD-10: fairtat's loops beside the published one, and beside the sum of their parts.

All train the same model on the same data: targets by CFPS, radii by robust accuracy, batches of 128. The floor is
as many attacks and training passes as an epoch has batches, without data, targets, statistics and whatever else a
loop does. Validation is left out for everybody.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import peers
import torch
import torch.nn.functional as F
from bench_attack_gpu import BF16_LAST, FP32, TF32, Precision, no_fallback
from bench_sample_targets import published_loop as published_targets
from harness import Benchmark, Case, CaseSpec, Contestant, Entrant, Mismatch, Outcome, Settings, Target, Verify
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

import fairtat
from fairtat import models
from fairtat.data import ImageData, Splits, batches, image_data, load_splits
from fairtat.seeds import derive

EPS, STEP_SIZE, STEPS = 8 / 255, 2 / 255, 10
BATCH = 128
RATE, MOMENTUM, DECAY = 0.05, 0.9, 5e-4
LAM, TAU = 0.5, 2.0
CHECKED = 4  # batches that everybody trains on before the proof: the loss is on its way down
MOST_LOSS = 0.1  # relative; everybody draws targets and starts in a way of his own

PARTS, FAIRTAT, PUBLISHED, TRAINER = "sum of the parts", "fairtat", "published loop", "Trainer"

Steps = Iterator[nn.Module]  # after each step the model as it is then, epoch after epoch


@dataclass(frozen=True)
class Task:
    """What all contestants train: a copy each of one model, from the same start."""

    splits: Splits
    model_name: str
    model: nn.Module
    device: str

    @property
    def train(self) -> ImageData:
        assert isinstance(self.splits.train, ImageData)
        return self.splits.train

    @property
    def steps(self) -> int:
        return -(-len(self.train) // BATCH)

    def model_for(self, p: Precision) -> nn.Module:
        model = copy.deepcopy(self.model).train()
        return model.to(memory_format=torch.channels_last) if p.channels_last else model  # type: ignore[call-overload]

    def images(self, count: int) -> tuple[Tensor, Tensor]:
        return self.train.floats(self.train.images[:count]), self.train.labels[:count]


def task_of(data: str, model: str, settings: Settings) -> Task:
    splits = random_images(settings) if data == "random" else load_splits(data, seed=0)
    splits = splits.to(settings.device)
    channels, height, width = splits.train.image_shape
    torch.manual_seed(0)
    name = "digits_cnn" if settings.rehearsal else model
    built = models.build(name, splits.train.num_classes, channels, (height, width))
    return Task(splits, name, built.to(settings.device), settings.device)


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


def optimizer_of(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), RATE, momentum=MOMENTUM, weight_decay=DECAY, fused=True)


def order_seed(epoch: int) -> int:
    """The batches of an epoch are those of fairtat's trainer for everybody: at the start, much depends on them."""
    return derive(0, "order", epoch)


class EpochOrder(Sampler[int]):
    """The order of `fairtat.data.batches` for a DataLoader, one epoch after another."""

    def __init__(self, samples: int) -> None:
        self._samples, self._epoch = samples, 0

    def __len__(self) -> int:
        return self._samples

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(order_seed(self._epoch))
        self._epoch += 1
        yield from torch.randperm(self._samples, generator=generator).tolist()


def published_steps(task: Task) -> Steps:
    """In the style of the published code, defects left out, the attack in eval mode as everybody's here.

    Images come from a loader on the host, targets from a rejection loop, radii and statistics from loops over samples;
    an extra forward of the clean images follows each step.
    """
    model, data, classes = task.model_for(FP32), task.train, task.train.num_classes
    optimizer = torch.optim.SGD(model.parameters(), RATE, momentum=MOMENTUM, weight_decay=DECAY)
    images = TensorDataset(data.floats(data.images).cpu(), data.labels.cpu())
    loader = DataLoader(images, BATCH, sampler=EpochOrder(len(images)))
    weight = torch.ones(classes, device=task.device)
    class_eps = torch.full((classes,), EPS, device=task.device)
    while True:
        seen, right, landed = (np.zeros(classes) for _ in range(3))
        for x_host, y_host in loader:
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
            for p, label in zip(logits.argmax(1).cpu().numpy(), y_host.numpy(), strict=True):
                seen[label] += 1
                if p == label:
                    right[label] += 1
                else:
                    landed[p] += 1
            yield model
        robust = torch.tensor(right / seen, dtype=torch.float32, device=task.device)
        class_eps = (LAM + robust) * EPS
        share = torch.tensor(landed / max(landed.sum(), 1.0), dtype=torch.float32, device=task.device)
        weight = torch.softmax(TAU * share, 0)


def own_steps(task: Task, p: Precision, engine: str) -> Steps:
    """A loop of one's own over FairTAT and TargetedPGD, as the README has it."""
    model, data = task.model_for(p), task.train
    optimizer = optimizer_of(model)
    fair = fairtat.FairTAT(
        data.num_classes, eps=EPS, targets="cfps", margins="G-rob", lam=LAM, tau=TAU, device=task.device
    )
    attack = attack_of(task, model, p, engine)
    while True:
        for x, y, ids in batches(data, BATCH, seed=order_seed(fair.epoch)):
            x = laid_out(x, p)
            target = fair.sample_targets(y, ids)
            assert target is not None  # as only an untargeted policy has none
            x_adv = attack(x, target, eps=fair.eps_for(y), sample_ids=ids, seed=fair.epoch)
            logits = training_pass(model, optimizer, x_adv, y, p, task.device)
            fair.update(logits, y, target)
            yield model
        fair.end_epoch()


def attack_of(task: Task, model: nn.Module, p: Precision, engine: str) -> fairtat.TargetedPGD:
    engine = engine if task.device == "cuda" or engine != "graph" else "eager"
    return fairtat.TargetedPGD(
        model, eps=EPS, step_size=STEP_SIZE, steps=STEPS, amp=p.amp, engine=engine, check=False, seed=0
    )


def training_pass(
    model: nn.Module, optimizer: torch.optim.Optimizer, x_adv: Any, y: Tensor, p: Precision, device: str
) -> Tensor:
    optimizer.zero_grad(set_to_none=True)
    with p.autocast(device):
        logits: Tensor = model(x_adv)
        loss = F.cross_entropy(logits, y)
    loss.backward()
    optimizer.step()
    return logits.detach().float()


def laid_out(x: Tensor, p: Precision) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if p.channels_last else x


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
    trainer = Trainer(config, task.splits, task.model_for(p))
    while True:
        for _ in trainer.train_steps():
            yield trainer.model
        trainer.fair.end_epoch()
        trainer.epoch += 1


def epochs(task: Task, p: Precision, steps: Callable[[], Steps], share: float = 1.0) -> Entrant:
    """A run is one more epoch of one training, or a share of it; an answer comes from a training from the start."""
    going = steps()
    count = max(1, round(share * task.steps))

    def run(steps: Steps, count: int) -> nn.Module:
        with p():
            *_, model = islice(steps, count)
        return model

    def outcome() -> Outcome:
        with no_fallback():
            return {"robust_loss": robust_loss(task, run(steps(), CHECKED))}

    return Entrant(lambda: run(going, count), outcome, share=count / task.steps)


def robust_loss(task: Task, model: nn.Module) -> Tensor:
    """() the mean loss of a model under the textbook attack on the first images, with their batch statistics."""
    judge = copy.deepcopy(model).train().requires_grad_(False).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    x, y = task.images(2 * BATCH)
    target = (y + 1) % task.train.num_classes
    with FP32():
        x_adv = peers.textbook(peers.Problem(judge, x, target, task.train.num_classes, EPS, STEP_SIZE, STEPS))()
        with torch.no_grad():
            return F.cross_entropy(judge(x_adv), y)


def parts(task: Task, p: Precision, engine: str) -> Entrant:
    """As many attacks and training passes as an epoch has batches, and nothing around them."""
    model = task.model_for(p)
    optimizer = optimizer_of(model)
    x, y = task.images(BATCH)
    x = laid_out(x, p)
    target = (y + 1) % task.train.num_classes
    attack = attack_of(task, model, p, engine)
    whole = len(task.train) / BATCH  # the last batch is smaller

    def run() -> None:
        with p():
            for _ in range(task.steps):
                x_adv = attack(x, target)
            for _ in range(task.steps):
                training_pass(model, optimizer, x_adv, y, p, task.device)

    return Entrant(run, share=task.steps / whole)


def on_cpu(data: str, model: str) -> Callable[[Settings], Case]:
    def case(settings: Settings) -> Case:
        task = task_of(data, model, settings)
        contestants = [Contestant(PUBLISHED, "published", lambda: epochs(task, FP32, partial(published_steps, task)))]
        for engine in ("eager", "compiled"):
            trained = partial(trainer_steps, task, FP32, engine)
            contestants += [
                Contestant(f"{TRAINER}, {engine}", "fairtat", lambda trained=trained: epochs(task, FP32, trained)),  # type: ignore[misc]
                Contestant(f"{PARTS}, {engine}", "floor", lambda engine=engine: parts(task, FP32, engine)),  # type: ignore[misc]
            ]
        goals = tuple(
            Target(f"{TRAINER}, {engine}", (f"{PARTS}, {engine}",), "within", 1.15) for engine in ("eager", "compiled")
        )
        return compared(task, contestants, baseline=f"{PARTS}, eager", targets=goals)

    return case


def on_gpu(data: str, model: str, seconds: float) -> Callable[[Settings], Case]:
    def case(settings: Settings) -> Case:
        if settings.device == "cuda":
            torch.backends.cudnn.benchmark = True  # for everybody
        task = task_of(data, model, settings)
        few = 20 / task.steps if settings.device == "cuda" else 1.0
        own = partial(own_steps, task, BF16_LAST, "graph")
        trained = partial(trainer_steps, task, BF16_LAST, "graph")
        contestants = [
            Contestant(FAIRTAT, "fairtat", lambda: epochs(task, BF16_LAST, own), "a loop over FairTAT, bf16"),
            Contestant(TRAINER, "fairtat", lambda: epochs(task, BF16_LAST, trained), "the training system, bf16"),
            Contestant(
                PUBLISHED,
                "published",
                lambda: epochs(task, TF32, partial(published_steps, task), few),
                "20 batches of an epoch; PyTorch's default precision",
            ),
            Contestant(PARTS, "floor", lambda: parts(task, BF16_LAST, "graph")),
        ]
        goals = (
            Target(FAIRTAT, (), "seconds", seconds),
            Target(FAIRTAT, (PARTS,), "within", 1.15),
            Target(FAIRTAT, (PUBLISHED,), "faster", 5.0),
        )
        return compared(task, contestants, baseline=PARTS, targets=goals)

    return case


def as_far_as(expected: float) -> Verify:
    """With a robust loss like ``expected``: a weaker attack or a faster descent would show in it."""

    def verify(contestant: str, outcome: Outcome) -> dict[str, float]:
        found = float(outcome["robust_loss"])
        if not abs(found - expected) <= MOST_LOSS * expected:
            raise Mismatch(f"the robust loss is {found:.4f}, expected {expected:.4f}")
        return {"robust_loss": found}

    return verify


def compared(task: Task, contestants: list[Contestant], *, baseline: str, targets: tuple[Target, ...]) -> Case:
    with FP32():
        *_, model = islice(own_steps(task, FP32, "eager"), CHECKED)
    return Case(
        contestants=tuple(contestants),
        baseline=baseline,
        verify=as_far_as(float(robust_loss(task, model))),
        rule=f"after {CHECKED} batches from the same start, robust loss within {MOST_LOSS:.0%} of an eager loop's",
        targets=targets,
    )


BENCHMARK = Benchmark(
    name="training",
    question="What does an epoch of FAIR-TAT with PGD-10 cost beside its attacks and one training pass?",
    settings={"eps": "8/255", "step_size": "2/255", "steps": STEPS, "batch": BATCH, "lr": RATE},
    cases=(
        CaseSpec("digits, small CNN", on_cpu("digits", "digits_cnn"), headline=True, quick=True),
        CaseSpec("mnist5k, small CNN", on_cpu("mnist5k", "mnist_cnn"), headline=True),
        CaseSpec(
            "50,000x3x32x32, PreActResNet-18",
            on_gpu("random", "preact_resnet18", 6.0),
            headline=True,
            quick=True,
            device="cuda",
        ),
    ),
)


def test_training(spec: CaseSpec, compare: Callable[[CaseSpec], None]) -> None:
    compare(spec)
