"""The user's own code, named as ``module:function``.

Importing such a name runs the module it names, so a name from a file needs the user's consent first
(`fairtat.training.require_trust`).
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fairtat.errors import UserError, did_you_mean

__all__ = ["import_code", "names_code"]


def names_code(name: str) -> bool:
    """Whether ``name`` is a ``module:function``."""
    return ":" in name


def import_code(what: str, name: str) -> Callable[..., Any]:
    """The function or class that ``name``, a ``module:function``, refers to.

    The module is looked up on the import path and in the working directory.

    Args:
        what: what error messages call it, for example ``model``.
        name: ``module:function``.

    Raises:
        UserError: no such module or function.
    """
    module_name, _, attribute = name.partition(":")
    try:
        with _working_directory_importable():
            module = importlib.import_module(module_name)
    # ValueError: the name is empty. TypeError: it is relative.
    except (ImportError, TypeError, ValueError) as error:
        raise UserError(f"{what} {name!r}: cannot import module {module_name!r} ({error})") from error
    found = getattr(module, attribute, None)
    if not callable(found):
        functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UserError(
            f"{what} {name!r}: module {module_name!r} has no function {attribute!r}{did_you_mean(attribute, functions)}"
        )
    return found  # type: ignore[no-any-return]


@contextmanager
def _working_directory_importable() -> Iterator[None]:
    # An installed command does not have the working directory on its path, where users keep their code.
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
