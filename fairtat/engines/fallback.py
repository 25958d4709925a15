"""Fallback: an engine that cannot serve a model or an option says so once, and the eager engine serves it."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from torch import nn

from fairtat.errors import warn_caller


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
    warn_caller(f"engine={engine!r} falls back to 'eager': {reason}", EngineFallback)
