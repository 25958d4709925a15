"""One call of the model: precision, and whatever shape its output has made into logits."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from fairtat.attacks.batch import Batch
from fairtat.attacks.model_state import Model, ModelState
from fairtat.attacks.options import AttackOptions


class Network:
    """The model as the engines see it: model input in, logits (N, C) out."""

    def __init__(self, model: Model, state: ModelState, batch: Batch, options: AttackOptions) -> None:
        device = batch.x.device
        if state.device is not None and state.device != device:
            raise ValueError(f"x must be on the model's device ({state.device}), got {device}")
        self.state = state
        self.model = model
        self._autocast: AbstractContextManager[object] = nullcontext()
        # The dtype that the model is given. Under autocast its first layer casts for itself, unless the
        # normalised input is written by the step anyway.
        self.input_dtype = batch.x.dtype
        if options.amp is not None:
            self._autocast = torch.autocast(device.type, dtype=options.amp)
            if options.normalize is not None:
                self.input_dtype = options.amp
        elif state.dtype is not None and not torch.is_autocast_enabled(device.type):
            self.input_dtype = state.dtype
        with self._autocast:
            under_autocast = torch.is_autocast_enabled(device.type)
            compute_dtype = torch.get_autocast_dtype(device.type) if under_autocast else self.input_dtype
        self.float16 = compute_dtype == torch.float16  # activations, so their gradients too

    def __call__(self, model_input: Tensor) -> Tensor:
        with self._autocast:
            output = self.model(model_input)
        logits = logits_of(output)
        if logits.ndim != 2 or logits.shape[0] != model_input.shape[0]:
            raise ValueError(
                f"the model must return logits of shape ({model_input.shape[0]}, C) for {model_input.shape[0]} "
                f"images, got {tuple(logits.shape)}"
            )
        return logits


def logits_of(output: object) -> Tensor:
    """The logits in what a model returned: a tensor, an object with ``.logits`` as transformers do, or a dict.

    Raises:
        TypeError: none of these, or not floating point.
    """
    found = output
    if isinstance(output, Mapping):
        found = output.get("logits")
    elif not isinstance(output, Tensor):
        found = getattr(output, "logits", None)
    if not isinstance(found, Tensor) or not found.is_floating_point():
        what = f"{found.dtype} tensor" if isinstance(found, Tensor) else type(output).__name__
        raise TypeError(
            "the model must return a floating-point tensor of logits, an object with .logits, or a dict with "
            f"'logits', got {what}; wrap it in a function that returns the logits"
        )
    return found
