"""From a configuration to a trained run folder."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from fairtat import models
from fairtat.data import ImageData, batches
from fairtat.errors import UserError
from fairtat.training.config import ModelConfig, TrainConfig
from fairtat.training.environment import describe_environment
from fairtat.training.events import Observer, RunStart
from fairtat.training.metrics import EpochMetrics
from fairtat.training.objectives import make_objective
from fairtat.training.outputs import logits_of
from fairtat.training.run import RunFolder, load_data
from fairtat.training.seeds import derive
from fairtat.training.trainer import Interrupted, Trainer

__all__ = ["Outcome", "default_output", "train"]


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    path: Path
    epoch: int  # finished epochs, which is what the checkpoint holds
    interrupted: bool
    last: EpochMetrics | None  # of the last finished epoch


def default_output(name: str) -> str:
    """``runs/NAME-TIME`` for a run that was not told where to go."""
    return str(Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")


def train(
    config: TrainConfig,
    *,
    observer: Observer | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Outcome:
    """Train as ``config`` says and write a run folder (see `load_run`), one checkpoint after every epoch.

    Nothing is written before data, model, device and folder have been checked. Seeds PyTorch's global generator and
    sets its number of threads.

    Args:
        config: the experiment; without ``output`` the folder is ``runs/train-TIME``.
        observer: is told what happens.
        should_stop: asked between steps; once it returns true, the running epoch is dropped and the run ends with
            the checkpoint of the last finished one.

    Raises:
        UserError: an input that cannot be used, a folder that is taken, or (`TrainingDiverged`) a loss that is not
            finite: the checkpoint of the last good epoch stays.
    """
    observer = observer or Observer()
    config = replace(config, output=config.output or default_output("train"))
    assert config.output is not None
    RunFolder.check_free(config.output)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    device = _device(config.device)
    environment = describe_environment(config, device)
    splits = load_data(config.data).to(device)
    torch.manual_seed(derive(config.seed, "model"))
    model = _build_model(config.model, splits.train).to(device)
    _rehearse(config, model, splits.train)
    trainer = Trainer(config, splits, model)

    folder = RunFolder.create(config.output, config, environment)
    folder.save(trainer.state_dict())  # so that a run stopped in its first epoch can be read as well
    observer.on_start(
        RunStart(
            path=folder.path,
            config=config,
            class_names=splits.train.class_names,
            train_samples=len(splits.train),
            val_samples=len(splits.val),
            parameters=sum(parameter.numel() for parameter in model.parameters()),
            device=device,
        )
    )
    last: EpochMetrics | None = None
    while trainer.epoch < config.epochs:
        try:
            last = trainer.run_epoch(observer, should_stop)
        except Interrupted:
            return Outcome(folder.path, trainer.epoch, interrupted=True, last=last)
        # Metrics first: whoever resumes drops lines past the checkpoint's epoch, but could not invent a lost one.
        folder.append_metrics(last.to_json())
        folder.save(trainer.state_dict())
        observer.on_epoch(last)
    return Outcome(folder.path, trainer.epoch, interrupted=False, last=last)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device is {name!r}; expected auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UserError(f"device is {name!r}, but PyTorch sees {count} CUDA devices here; expected auto or cpu")
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device is {name!r}; expected auto, cpu, cuda or cuda:N")
    return device


def _build_model(config: ModelConfig, data: ImageData) -> nn.Module:
    channels, height, width = data.image_shape
    return models.build(
        config.name,
        num_classes=data.num_classes,
        in_channels=channels,
        image_size=(height, width),
        **config.options,
    )


def _rehearse(config: TrainConfig, model: nn.Module, data: ImageData) -> None:
    """One tiny step of a copy, so that a model or an attack that does not fit fails before anything is written."""
    name, num_classes = config.model.name, data.num_classes
    batch = next(batches(data.take(torch.arange(2, device=data.device)), 2))
    rehearsal = copy.deepcopy(model).eval()
    try:
        with torch.no_grad():
            shape = tuple(logits_of(rehearsal(batch.x)).shape)
    except (RuntimeError, AttributeError, TypeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"model {name!r} does not run on images {data.image_shape}: {reason}") from error
    if shape != (2, num_classes):
        raise UserError(f"model {name!r} returns logits of shape {shape} for 2 images; expected (2, {num_classes})")
    target = None if config.fairness.targets == "none" else (batch.y + 1) % num_classes
    eps = torch.full((2,), float(config.attack.eps), device=data.device)
    # Two images of a copy are not worth a compilation.
    config = replace(config, attack=replace(config.attack, engine="eager"))
    try:
        make_objective(config)(rehearsal.train(), batch, target=target, eps=eps, seed=0)
    except ValueError as error:
        raise UserError(f"the attack does not fit: {error}") from error
