"""The engine of a run's attacks, where that is left to the device: chosen once, before the first step.

A run must not change engines on its way: each rounds differently, and a resumed run has to give the same bits.
"""

from __future__ import annotations

import copy
import logging
import time
import warnings
from dataclasses import replace

import torch
from torch import nn

from fairtat.data import batches, num_batches
from fairtat.data.stream import Data
from fairtat.engines import EngineFallback
from fairtat.engines.operations import OperationCount
from fairtat.engines.patient import EAGER_PER_BUILD, build_seconds
from fairtat.training.config import TrainConfig, make_fairness
from fairtat.training.distributed import World
from fairtat.training.objectives import make_objective

__all__ = ["settle_engine"]

_LOG = logging.getLogger("fairtat")
# Floating-point operations per second and thread, in float32: a third of what ResNets get, several times small nets'.
_FLOPS = 30e9
_ROUNDS = 3  # of both engines, of which the first one builds or warms up
_GAIN = 0.9  # share of the eager engine's time, from which a program is worth it: luck should not tell equals apart


def settle_engine(config: TrainConfig, model: nn.Module, data: Data, world: World) -> TrainConfig:
    """The configuration with ``attack.engine: auto`` replaced, on a CPU, by what pays for this run.

    A run whose attacks are few operations stays eager: by a count and not by a clock, so that it is the same run every
    time. For a longer one, the attack of a batch is compiled and timed on a copy of the model in the first process.
    """
    if config.attack.engine != "auto" or data.device.type != "cpu":
        return config
    return _with_engine(config, world.share(_faster(config, model, data, world) if world.main else ""))


def _with_engine(config: TrainConfig, engine: str) -> TrainConfig:
    return replace(config, attack=replace(config.attack, engine=engine))  # type: ignore[arg-type]


def _faster(config: TrainConfig, model: nn.Module, data: Data, world: World) -> str:
    attacks = config.epochs * config.accumulate * num_batches(len(data), config.batch_size, drop_last=config.drop_last)
    size = min(len(data), max(1, config.batch_size // (world.size * config.accumulate)))
    part = data.take(torch.arange(size, device=data.device))
    floats = attacks * _flops(config, model, part)
    about, expected = floats / (_FLOPS * torch.get_num_threads()), build_seconds(model)
    if about < EAGER_PER_BUILD * expected or torch.are_deterministic_algorithms_enabled():
        return "eager"
    _LOG.info(
        "attack.engine is auto: the attacks of this run are %.3g operations; trying the compiled engine, about %.0f s",
        floats, expected,
    )  # fmt: skip
    try:
        compiled = _seconds(config, model, part, "compiled", rounds=_ROUNDS)
    except EngineFallback as reason:
        _LOG.info("attack.engine is auto: eager, as %s", reason)
        return "eager"
    eager = _seconds(config, model, part, "eager", rounds=_ROUNDS)
    chosen = "compiled" if compiled < _GAIN * eager else "eager"
    _LOG.info("attack.engine is auto: %s; a compiled attack takes %.2f of an eager one", chosen, compiled / eager)
    return chosen


def _flops(config: TrainConfig, model: nn.Module, data: Data) -> int:
    """Floating-point operations of an attack on these images, in convolutions and products of matrices."""
    count = OperationCount()
    with count:
        _seconds(config, model, data, "eager", rounds=1)
    return count.total


def _seconds(config: TrainConfig, model: nn.Module, data: Data, engine: str, *, rounds: int) -> float:
    """The shortest processor time of an attack on these images; of several, the first does not count.

    Raises:
        EngineFallback: the engine cannot serve it.
    """
    batch = next(batches(data, len(data)))
    if config.channels_last is True:
        batch = batch._replace(x=batch.x.contiguous(memory_format=torch.channels_last))
    trial = copy.deepcopy(model).train()
    if config.channels_last is True:
        trial.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective = make_objective(_with_engine(config, engine), data)
    fair = make_fairness(config, data.num_classes, device=data.device)
    target = fair.sample_targets(batch.y, batch.ids)
    seconds = []
    with torch.random.fork_rng([]), warnings.catch_warnings():
        warnings.simplefilter("error", EngineFallback)
        for _ in range(rounds):
            begin = time.thread_time()
            objective.attack(trial, batch, fair=fair, target=target, seed=0)
            seconds.append(time.thread_time() - begin)
    return min(seconds[1:] or seconds)
