"""What the function that starts an attack has in common: its options in ``help``, and when it may be called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch

__all__ = ["check_call", "shows_options"]

F = TypeVar("F", bound=Callable[..., Any])


def shows_options(options: Iterable[tuple[str, Any, Any]]) -> Callable[[F], F]:
    """A decorator: ``help`` and ``inspect.signature`` show each option in the place of ``**options``.

    Args:
        options: name, default and type of each.
    """
    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(name, keyword, default=default, annotation=kind) for name, default, kind in options]

    def decorate(function: F) -> F:
        given = inspect.signature(function)
        own = [p for p in given.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        function.__signature__ = given.replace(parameters=[*own, *parameters])  # type: ignore[attr-defined]
        return function

    return decorate


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
