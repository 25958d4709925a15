"""Stepping aside: an engine that cannot serve a model or an option says so once, and the eager engine does."""

from __future__ import annotations

import sys
import warnings
from weakref import WeakKeyDictionary

from torch import nn


class EngineFallback(UserWarning):
    """The engine that was asked for cannot serve a model or an option, so the eager engine does."""


_WARNED: WeakKeyDictionary[nn.Module, set[tuple[str, str]]] = WeakKeyDictionary()


def warn_once(engine: str, model: object, reason: str) -> None:
    """Warn the caller of fairtat, once for a module and a reason."""
    if isinstance(model, nn.Module):
        warned = _WARNED.setdefault(model, set())
        if (engine, reason) in warned:
            return
        warned.add((engine, reason))
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "fairtat":
        level, frame = level + 1, frame.f_back
    warnings.warn(f"engine={engine!r} gives way to 'eager': {reason}", EngineFallback, stacklevel=level)
