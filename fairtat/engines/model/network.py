"""One call of the model: its precision, and what it must not do to its input."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from fairtat.engines.model.state import Model, ModelState
from fairtat.logits import logits_of


class InputWritten(Exception):
    """A model writes to its input in place, so the attacked images have changed."""


_WRITES_A_LEAF = "a leaf Variable that requires grad is being used in an in-place operation"
_WRITES: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()  # whether a module does, once it has been seen


class Network:
    """The model as the engines see it: model input in, logits (N, C) out."""

    def __init__(self, state: ModelState, x: Tensor, *, amp: torch.dtype | None, normalized: bool) -> None:
        """For images like x. ``normalized``: steps write the model's input, as another tensor than x_adv."""
        device = x.device
        if state.device is not None and state.device != device:
            raise ValueError(f"x must be on the model's device ({state.device}), got {device}")
        self.state = state
        self.model = model = state.model
        self._autocast: AbstractContextManager[object] = nullcontext()
        # The dtype that the model is given. Under autocast its first layer casts for itself, unless the
        # normalized input is written by the step anyway.
        self.input_dtype = x.dtype
        if amp is not None:
            self._autocast = torch.autocast(device.type, dtype=amp)
            if normalized:
                self.input_dtype = amp
        elif state.dtype is not None and not torch.is_autocast_enabled(device.type):
            self.input_dtype = state.dtype
        with self._autocast:
            under_autocast = torch.is_autocast_enabled(device.type)
            compute_dtype = torch.get_autocast_dtype(device.type) if under_autocast else self.input_dtype
        self.float16 = compute_dtype == torch.float16  # activations, so their gradients too
        self.precision = compute_dtype
        self.autocasts = amp is not None or torch.is_autocast_enabled(device.type)
        self._owns_input = False  # may the model overwrite what it is given?
        self._writes = _WRITES.get(model) if isinstance(model, nn.Module) else False

    def calling(self, model: Model) -> Network:
        """The same around another callable, which may overwrite its input."""
        other = copy.copy(self)
        other.model, other._owns_input = model, True
        return other

    def __call__(self, model_input: Tensor) -> Tensor:
        """Logits (N, C).

        Raises:
            InputWritten: the model has written to ``model_input``, or was about to. From now on it is given copies.
        """
        if not self.state.called:
            self.state.before_call()
        with self._autocast:
            output = self._call(model_input)
        logits = output if type(output) is Tensor and output.is_floating_point() else logits_of(output)
        if logits.ndim != 2 or logits.shape[0] != model_input.shape[0]:
            raise ValueError(
                f"the model must return logits of shape ({model_input.shape[0]}, C) for {model_input.shape[0]} "
                f"images, got {tuple(logits.shape)}"
            )
        return logits

    def _call(self, model_input: Tensor) -> object:
        if self._owns_input or len(model_input) == 0:
            return self.model(model_input)
        if self._writes:
            return self.model(model_input.clone())
        # A write through x.data changes no version, so at a module's first pass the values are compared.
        total = model_input.sum(dtype=torch.float64) if self._writes is None else None
        version = model_input._version
        try:
            output = self.model(model_input)
        except RuntimeError as error:
            if _WRITES_A_LEAF not in str(error):
                raise
            self._note(True)
            raise InputWritten from error
        if model_input._version != version or not (
            total is None or torch.equal(total, model_input.sum(dtype=torch.float64))
        ):
            self._note(True)
            raise InputWritten
        if total is not None:
            self._note(False)
        return output

    def _note(self, writes: bool) -> None:
        self._writes = writes
        if isinstance(self.model, nn.Module):
            _WRITES[self.model] = writes
