"""Mixed precision of the training pass."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from fairtat.training.config import TrainConfig

__all__ = ["AMP_DTYPES", "Precision"]

AMP_DTYPES = {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}


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
        """One optimiser step with gradients of an L2 norm of at most ``clip``.

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
