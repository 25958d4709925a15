"""The logits in what a model returns, and models that return something else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["logits_of", "select", "two_logits"]


def logits_of(output: object) -> Tensor:
    """The logits in what a model returned: a tensor, an object with ``.logits`` as in transformers, or a dict.

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
            f"'logits', got {what}; fairtat.logits.select(model, index or key) picks them"
        )
    return found


class _Selected(nn.Module):
    def __init__(self, model: Callable[..., Any], pick: Callable[[Any], object]) -> None:
        super().__init__()
        self.model = model
        self._pick = pick
        # The mode of the wrapper alone: train() would change that of every module inside.
        self.training = isinstance(model, nn.Module) and model.training

    def forward(self, x: Tensor) -> Tensor:
        return logits_of(self._pick(self.model(x)))


def select(model: Callable[..., Any], output: int | str | Callable[[Any], Any]) -> nn.Module:
    """A model that returns the logits among what ``model`` returns, for attacks and evaluation.

    Args:
        model: Images (N, ...) to a tuple, a dict or any other object; its parameters and mode stay its own.
        output: The index or key of the logits (N, C), or a function from what ``model`` returns to them.

    Raises:
        TypeError: ``model`` is not callable, or ``output`` is none of these.
        TypeError, IndexError, KeyError: when called, what ``model`` returned has no logits there.
    """
    if not callable(model):
        raise TypeError(f"model must be a torch.nn.Module or a callable, got {type(model).__name__}")
    if isinstance(output, bool) or not (callable(output) or isinstance(output, (int, str))):
        raise TypeError(f"output must be an index, a key or a function, got {output!r}")
    return _Selected(model, output if callable(output) else lambda returned: returned[output])


def two_logits(model: Callable[..., Any]) -> nn.Module:
    """A model of two classes from one that returns a single logit z: its logits are [0, z].

    ``softmax([0, z]) = [1 - sigmoid(z), sigmoid(z)]``, so their cross-entropy is `torch.nn.BCEWithLogitsLoss` of z, and
    class 1 is predicted where z > 0.

    Args:
        model: Images (N, ...) to z, (N,) or (N, 1).

    Raises:
        TypeError: ``model`` is not callable.
        ValueError: when called, ``model`` returned another shape.
    """
    return select(model, _beside_zero)


def _beside_zero(output: object) -> Tensor:
    z = logits_of(output)
    if z.ndim != 1 and (z.ndim != 2 or z.shape[1] != 1):
        raise ValueError(f"the model must return one logit for each image, (N,) or (N, 1), got {tuple(z.shape)}")
    z = z.reshape(-1)
    return torch.stack((torch.zeros_like(z), z), dim=1)
