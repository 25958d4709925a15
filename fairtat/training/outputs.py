"""What models return."""

from __future__ import annotations

from typing import Any

from torch import Tensor

__all__ = ["logits_of"]


def logits_of(output: Any) -> Tensor:
    """The logits (N, C) of a model that returns a tensor, or an object with ``.logits`` as transformers do."""
    logits = output if isinstance(output, Tensor) else output.logits
    assert isinstance(logits, Tensor)
    return logits
