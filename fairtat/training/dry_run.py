"""What a run would cost, from a few of its steps."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from fairtat.seeds import derive
from fairtat.training.config import TrainConfig
from fairtat.training.distributed import World, connect
from fairtat.training.run import RunFolder
from fairtat.training.setup import choose_device, make_trainer
from fairtat.training.trainer import Trainer
from fairtat.training.validation import validate

__all__ = ["DryRun", "dry_run"]

_STEPS, _SECONDS = 20, 15.0  # timed are that many steps, or as many as fit into that time


@dataclass(frozen=True)
class DryRun:
    """Times in seconds, sizes in bytes."""

    config: TrainConfig
    device: torch.device
    processes: int
    parameters: int
    train_samples: int
    val_samples: int
    steps_per_epoch: int
    timed_steps: int
    first_step: float  # with what happens once, such as compiling
    step: float  # median of the others
    validation: float  # of an epoch
    memory: int | None  # peak: of the GPU, or of the process on a CPU; None: Windows keeps no count of it
    files: dict[str, int]  # name in the run folder -> size; those that do not grow with the epochs

    @property
    def epoch(self) -> float:
        return self.steps_per_epoch * self.step + self.validation

    @property
    def total(self) -> float:
        return self.first_step + self.config.epochs * self.epoch


def dry_run(config: TrainConfig) -> DryRun:
    """Build all that `train` would, decode every image, take a few steps, and write nothing.

    Raises:
        UserError: as `train` before its first step.
    """
    device = choose_device(config.device)
    with connect(device) as world:
        config = replace(config, output=world.share(config.output))
        with world.together():
            if world.main and config.output is not None:
                RunFolder.check_free(config.output)
        with world.together():
            trainer = make_trainer(config, device, world, decode=True)
        config = trainer.config
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        first, others = _time_steps(trainer, device, world)
        return DryRun(
            config=config,
            device=device,
            processes=world.size,
            parameters=sum(parameter.numel() for parameter in trainer.model.parameters()),
            train_samples=len(trainer.splits.train),
            val_samples=len(trainer.splits.val),
            steps_per_epoch=trainer.steps_per_epoch,
            timed_steps=max(1, len(others)),
            first_step=first,
            step=statistics.median(others or [first]),
            validation=_time_validation(trainer, device, world),
            memory=_peak_memory(device),
            files=_files(trainer),
        )


def _time_steps(trainer: Trainer, device: torch.device, world: World) -> tuple[float, list[float]]:
    steps = trainer.train_steps()
    first = _seconds(lambda: next(steps), device)
    others: list[float] = []
    for _ in range(min(_STEPS, trainer.steps_per_epoch - 1)):
        if world.share(sum(others) > _SECONDS):  # the processes must take the same number of steps
            break
        others.append(_seconds(lambda: next(steps), device))
    return first, others


def _time_validation(trainer: Trainer, device: torch.device, world: World) -> float:
    """Of an epoch, from its first batch: the second time, so that what happens once does not count."""
    config, val = trainer.config, trainer.splits.val
    size = min(len(val), config.eval.batch_size)
    one = val.take(torch.arange(size, device=val.labels.device))
    seed = derive(config.seed, "validation")

    def once() -> object:
        return validate(trainer.model, one, config, seed=seed, world=world)

    once()
    models = 1 if config.averaging.name == "none" else 2  # the averaged weights are validated as well
    return _seconds(once, device) * models * len(val) / size


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _peak_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _files(trainer: Trainer) -> dict[str, int]:
    model = _bytes(trainer.model)
    optim = trainer.config.optim
    running = {"sgd": int(optim.momentum > 0), "adamw": 2, "lion": 1}[optim.name]  # means of the gradient
    copies = 1 + running + (trainer.config.averaging.name != "none")
    return {
        "checkpoint.pt": model * copies,
        "checkpoint.previous.pt": model * copies,
        "model.safetensors": model,
        "best.pt": model,
        "best.safetensors": model,
    }


def _bytes(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
