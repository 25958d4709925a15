"""Options that several functions share: typed once, and still shown one by one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

__all__ = ["shows_options"]

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
