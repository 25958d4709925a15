"""The engines: how the steps of an attack run. `steps` says what a step is, `eager` is the plain loop."""

from __future__ import annotations

from typing import Any

from torch import nn

from fairtat.engines.base import Engine
from fairtat.engines.compiled.engine import Compiled
from fairtat.engines.driver import run
from fairtat.engines.fallback import EngineFallback
from fairtat.engines.graph import runtime
from fairtat.engines.graph.engine import Graph
from fairtat.engines.steps import S, Steps

__all__ = ["ENGINES", "ENGINE_CHECKS", "EngineFallback", "engine_for", "run"]

ENGINES = ("auto", "eager", "compiled", "graph")
ENGINE_CHECKS = ("first", "always", "off")


def engine_for(name: str, steps: Steps[S], *, check: str, chunked: bool) -> Engine[S, Any] | None:
    """The engine of this name for an attack; None is the eager one.

    "auto": graphs where they are a gain for sure, without early stopping and chunks, on a GPU.
    """
    if name == "compiled":
        return Compiled(steps, check)
    if name == "graph":
        return Graph(steps, check)
    if name == "auto" and not (steps.stops_early or chunked) and runtime.runtime_for(steps.x.device) is not None:
        return Graph(steps, check, requested=False) if isinstance(steps.network.model, nn.Module) else None
    return None
