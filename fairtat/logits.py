"""The logits in what a model returns."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

__all__ = ["logits_of"]


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
            f"'logits', got {what}; wrap it in a function that returns the logits"
        )
    return found
