"""Mixed precision of the training pass, and the choices that are left to the device."""

from __future__ import annotations

import copy
import logging
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fairtat.data import batches
from fairtat.data.stream import Data
from fairtat.devices import has_native_bf16, slow_bf16
from fairtat.errors import first_time
from fairtat.logits import logits_of
from fairtat.training.config import TrainConfig
from fairtat.training.distributed import World

__all__ = ["AMP_DTYPES", "Precision", "settle_amp", "settle_format"]

AMP_DTYPES = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}

_LOG = logging.getLogger("fairtat")
_CPU_IMAGES = 16  # keep a CPU busy; a GPU needs its share of the batch
_ROUNDS, _SECONDS = 4, 10.0  # of both memory formats in turn; the first one warms up
_GAIN = 0.9  # share of the time, from which channels_last is worth it: equals should not be told apart by luck


def settle_amp(config: TrainConfig, device: torch.device) -> TrainConfig:
    """The configuration with ``amp: auto`` replaced by what the device has instructions for."""
    if config.amp == "auto":
        config = replace(config, amp="bf16" if has_native_bf16(device) else "none")
    slow = slow_bf16(device) if config.amp == "bf16" else None
    if slow is not None and first_time(slow):
        _LOG.warning("warning: amp is bf16: %s", slow)
    return config


def settle_format(config: TrainConfig, model: nn.Module, data: Data, world: World) -> TrainConfig:
    """The configuration, its amp settled, with ``channels_last: auto`` replaced by what the first process times."""
    if config.channels_last != "auto":
        return config
    chosen = None
    if world.main:
        size = min(len(data), max(1, config.batch_size // world.size))
        if data.device.type == "cpu":
            size = min(size, _CPU_IMAGES)
        images = next(batches(data.take(torch.arange(size, device=data.device)), size)).x
        chosen = _channels_last_is_faster(model, images, Precision(config, data.device))
    return replace(config, channels_last=bool(world.share(chosen)))


def _channels_last_is_faster(model: nn.Module, images: Tensor, precision: Precision) -> bool:
    """Whether passes forward and backward of a copy take clearly less time in that memory format.

    On a CPU processor time counts, which other programs do not lengthen. In eval mode no layer waits for other
    processes.
    """
    if not any(parameter.ndim == 4 for parameter in model.parameters()):
        return False
    formats = (torch.contiguous_format, torch.channels_last)
    copies = [copy.deepcopy(model).eval().to(memory_format=form) for form in formats]  # type: ignore[call-overload]
    best = [float("inf")] * len(formats)
    on_gpu = images.is_cuda
    begin = time.perf_counter()
    with torch.random.fork_rng([images.device] if on_gpu else []):
        for number in range(_ROUNDS):
            for k, form in enumerate(formats):
                x = images.contiguous(memory_format=form)
                started = time.perf_counter() if on_gpu else time.process_time()
                with precision.autocast():
                    logits = logits_of(copies[k](x))
                logits.float().square().sum().backward()
                if on_gpu:
                    torch.cuda.synchronize(images.device)
                seconds = (time.perf_counter() if on_gpu else time.process_time()) - started
                if number > 0:
                    best[k] = min(best[k], seconds)
            if number > 0 and time.perf_counter() - begin > _SECONDS:
                break
    return best[1] < _GAIN * best[0]


class Precision:
    """Autocast for the forward pass and, for float16, a loss scale that keeps small gradients from vanishing."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.dtype = AMP_DTYPES[config.amp]
        self._device = device.type
        self._scaler = torch.amp.GradScaler(self._device) if self.dtype == torch.float16 else None

    def autocast(self) -> AbstractContextManager[Any]:
        return nullcontext() if self.dtype is None else torch.autocast(self._device, self.dtype)

    def scaled(self, loss: Tensor) -> Tensor:
        """What to take the gradient of."""
        return loss if self._scaler is None else self._scaler.scale(loss)

    def step(self, optimizer: torch.optim.Optimizer, clip: float | None) -> None:
        """One optimizer step with gradients of an L2 norm of at most ``clip``.

        A float16 step whose gradients overflowed is left out, and the scale halved.
        """
        if clip is not None:
            if self._scaler is not None:
                self._scaler.unscale_(optimizer)
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        if self._scaler is None:
            optimizer.step()
        else:
            self._scaler.step(optimizer)
            self._scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return {} if self._scaler is None else self._scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self._scaler is not None and state:
            self._scaler.load_state_dict(state)
