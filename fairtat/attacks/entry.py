"""When an attack may be called."""

from __future__ import annotations

import torch

__all__ = ["check_call"]


def check_call(model: object) -> None:
    """Whether an attack may run here.

    Raises:
        RuntimeError: inside ``torch.inference_mode()``.
        TypeError: ``model`` is not callable.
    """
    if torch.is_inference_mode_enabled():
        raise RuntimeError(
            "an attack needs gradients, which torch.inference_mode() rules out: call it outside, or use "
            "torch.no_grad() instead, under which it works"
        )
    if not callable(model):
        raise TypeError(f"model must be a torch.nn.Module or a callable, got {type(model).__name__}")
