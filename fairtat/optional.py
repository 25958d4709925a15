"""Imports of optional dependencies."""

from __future__ import annotations

import importlib
from types import ModuleType

from fairtat.errors import UserError

__all__ = ["optional_import"]


def optional_import(module: str, *, purpose: str, extra: str = "train") -> ModuleType:
    """Import ``module``, or say which extra of fairtat brings it.

    Raises:
        UserError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise  # the package is there but broken: its own message is the useful one
        raise UserError(f"{purpose} needs {package}: pip install 'fairtat[{extra}]'") from error
