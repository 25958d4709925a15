"""Everything that a run needs before its first step, checked before anything is written."""

from __future__ import annotations

import copy
import logging
import os
from dataclasses import replace

import torch
from torch import nn

from fairtat import models
from fairtat.data import Splits, batches, check_images, load_extra
from fairtat.data.augment import make_augment
from fairtat.data.stream import Data
from fairtat.devices import resolve_device
from fairtat.errors import UserError
from fairtat.logits import logits_of
from fairtat.models.published import TIMM
from fairtat.seeds import derive
from fairtat.training.build import build_model, load_data
from fairtat.training.config import ModelConfig, TrainConfig, make_fairness
from fairtat.training.distributed import World, env_size
from fairtat.training.engine import settle_engine
from fairtat.training.objectives import make_objective
from fairtat.training.precision import settle_amp, settle_format
from fairtat.training.pseudo_labels import labeled
from fairtat.training.trainer import Trainer
from fairtat.weights import load_weights

__all__ = ["choose_device", "make_trainer"]

_LOG = logging.getLogger("fairtat")


def choose_device(name: str) -> torch.device:
    """The device of this process: in a job of several on GPUs, each takes the one of its local rank.

    Raises:
        UserError: no such device here.
    """
    device = resolve_device(name)
    if device.type == "xpu" and env_size() > 1:
        raise UserError(f"device is {name!r} with {env_size()} processes; expected cpu or cuda, or a single process")
    if device.type == "cuda" and env_size() > 1:
        if device.index is not None:
            raise UserError(f"device is {name!r} with {env_size()} processes; expected cuda, of which each takes one")
        device = resolve_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def make_trainer(
    config: TrainConfig, device: torch.device, world: World, *, decode: bool = False, resumed: bool = False
) -> Trainer:
    """Data, model and trainer on ``device``; all images were looked at, and one step of a copy has been tried.

    With ``decode``, the images were even read as a whole, which takes as long as it does in an epoch. ``resumed``: the
    trainer will load a state, so the weights that its run began with are not needed.

    Seeds PyTorch's global generator and sets its number of threads.

    Raises:
        UserError: data, model, attack and settings that cannot be used or do not fit together.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    splits = _with_extra(config, _load(config, world, decode).to(device), world)
    _check_sizes(config, len(splits.train), device, world)
    augment = make_augment(config.data.augment, pad=config.data.pad)
    if augment is not None:
        augment.check(splits.train.image_shape[1:])
    torch.manual_seed(derive(config.seed, "model"))
    model = _begun(config.model, splits.train, world, resumed).to(device)
    config = settle_amp(config, device)
    _rehearse(config, model, splits.train)
    config = settle_engine(settle_format(config, model, splits.train, world), model, splits.train, world)
    if config.sync_batchnorm and world.size > 1:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return Trainer(config, splits, model, world=world)


def _load(config: TrainConfig, world: World, decode: bool) -> Splits:
    """The data: the first process goes ahead, because it may have to download them."""
    splits = None
    with world.together():
        if world.main:
            splits = load_data(config.data)
            check_images(splits.train, splits.val, splits.test, decode=decode)  # once for all processes
    with world.together():
        return splits or load_data(config.data)


def _with_extra(config: TrainConfig, splits: Splits, world: World) -> Splits:
    """With the extra images that the configuration names, labeled by the first process where they have no labels."""
    if config.data.extra is None:
        return splits
    with world.together():
        extra = load_extra(config.data.extra, splits, layout=config.data.layout)
    with world.together():
        if world.main and config.data.pseudo_labels is not None:
            extra = labeled(extra, config.data.pseudo_labels, splits)
    return replace(splits, extra=replace(extra, labels=world.share(extra.labels)))


def _begun(config: ModelConfig, data: Data, world: World, resumed: bool) -> nn.Module:
    """The network with the weights that training begins with, or of a resumed run, with any."""
    with world.together():
        if world.main and config.download and not resumed:
            models.fetch(config.name, config.weights)
    # pretrained: true has always given other classes a new head; weights ask first.
    new_head = config.new_head or (config.weights is None and config.name.startswith("timm:"))
    from_file = config.weights is not None and config.weights != TIMM
    model = build_model(
        config, data.num_classes, data.image_shape, fetch=not resumed and not from_file, new_head=new_head
    )
    if resumed or not from_file:
        return model
    assert config.weights is not None
    file = models.find_weights(config.weights)
    head = load_weights(model, file, num_classes=data.num_classes, new_head=config.new_head)
    if head and world.main:
        _LOG.info("%s: has other classes: %s start from random weights", file, ", ".join(head))
    return model


def _check_sizes(config: TrainConfig, samples: int, device: torch.device, world: World) -> None:
    """Whether every process gets its parts of the batches."""
    if config.drop_last and samples < config.batch_size:
        raise UserError(
            f"drop_last is true and batch_size is {config.batch_size}, which leaves no batch of {samples} training "
            "images"
        )
    size = world.size
    if size == 1:
        return
    if config.batch_size < 2 * size * config.accumulate:
        raise UserError(
            f"batch_size is {config.batch_size}; expected at least {2 * size * config.accumulate} for {size} processes "
            f"with accumulate {config.accumulate}, two images a part"
        )
    if config.sync_batchnorm and device.type != "cuda":
        raise UserError("sync_batchnorm is true; expected false on a CPU, where PyTorch has no such layer")
    last = samples % config.batch_size
    if 0 < last < size * config.accumulate and not config.drop_last:
        collective = "sync_batchnorm" if config.sync_batchnorm else "awp" if config.awp.gamma else None
        if collective is not None:
            raise UserError(
                f"the last batch of {samples} images holds {last}, too few for the parts of {size} processes, which "
                f"{collective} needs; set drop_last true or another batch_size"
            )


def _rehearse(config: TrainConfig, model: nn.Module, data: Data) -> None:
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
    fair = make_fairness(config, num_classes, device=data.device)
    rule = fair.weight_rule
    if rule is not None and rule.warmup >= config.epochs:
        _LOG.warning(
            "warning: %s weights apply after %d epochs, and epochs is %d: this run ends without them",
            rule.name, rule.warmup, config.epochs,
        )  # fmt: skip
    target = fair.sample_targets(batch.y, batch.ids)
    # Two images of a copy are not worth a compilation.
    objective = make_objective(replace(config, attack=replace(config.attack, engine="eager")), data)
    try:
        examples = objective.attack(rehearsal.train(), batch, fair=fair, target=target, seed=0)
        objective.loss(rehearsal, batch, examples, fair=fair)
    except ValueError as error:
        raise UserError(f"the attack does not fit: {error}") from error
