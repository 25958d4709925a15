"""Imports of optional dependencies."""

from __future__ import annotations

import importlib
from types import ModuleType

from fairtat.errors import UserError

__all__ = ["optional_import"]


def optional_import(module: str, *, purpose: str, extra: str = "train") -> ModuleType:
    """Import ``module``, or say which extra of fairtat brings it.

    Raises:
        UserError: the package is not installed, or does not load.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] == package:
            raise UserError(f"{purpose} needs {package}: pip install 'fairtat[{extra}]'") from error
        raise _broken(purpose, package, error) from error
    except Exception as error:  # a package made for another build of PyTorch may raise anything
        raise _broken(purpose, package, error) from error


def _broken(purpose: str, package: str, error: Exception) -> UserError:
    reason = str(error).partition("\n")[0]
    return UserError(f"{purpose} needs {package}, which is installed but does not load: {reason}")
