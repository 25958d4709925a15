"""The operations of a model, counted: by them, and not by a clock, an engine is chosen where the bits must repeat."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fairtat.engines.model.structure import ModelStructure
from fairtat.engines.patient import EAGER_PER_BUILD, build_seconds

__all__ = ["BACKWARD", "OperationCount", "engine_for"]

_LOG = logging.getLogger("fairtat")

BACKWARD = 3
"""What a pass forward and back costs, in passes forward."""

# Floating-point operations per second in float32: about what one core does for a ResNet. However many threads there
# are, so that one process and many of one thread each choose the same.
_FLOPS = 120e9


class OperationCount(TorchDispatchMode):
    """``total`` floating-point operations in convolutions and products of matrices, while it is entered.

    PyTorch's count, without `FlopCounterMode`'s hooks, which `torch.autograd.grad` does not pass.
    """

    def __init__(self) -> None:
        # It imports Triton where that is installed, which takes longer than all of fairtat.
        from torch.utils.flop_counter import flop_registry

        super().__init__()
        self.total = 0
        self._formulas = flop_registry

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = self._formulas.get(func._overloadpacket)
        if formula is not None:
            self.total += int(formula(*args, **(kwargs or {}), out_val=out))
        return out


def countable(model: Any, device: torch.device) -> bool:
    """Whether the engine of an attack is left to a count: of a module on a CPU, no part of which its owner compiled."""
    return device.type == "cpu" and isinstance(model, nn.Module) and not ModelStructure.of(model).compiled


def engine_for(model: Any, operations: float, name: str) -> str:
    """The engine of an attack of at most so many operations on a CPU: compiled where a program pays, else eager.

    By the rule of `fairtat.engines.patient`, with a count in place of the clock: the same call always gets the same
    engine, and so the same bits.
    """
    if torch.are_deterministic_algorithms_enabled():
        return "eager"
    about, expected = operations / _FLOPS, build_seconds(model)
    if about < EAGER_PER_BUILD * expected or ModelStructure.of(model).unsupported() is not None:
        return "eager"
    _LOG.info(
        "engine 'auto': %s on %s takes up to %.2g operations; compiling it, about %.0f s "
        "(engine='eager' turns this off)",
        name, type(model).__name__, operations, expected,
    )  # fmt: skip
    return "compiled"
