"""The one exception for mistakes that a user can correct."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["UserError", "did_you_mean", "nearest"]


class UserError(Exception):
    """A wrong input, file, key or setting: the message is one line that says what to change.

    The command line prints it as ``error: ...`` and exits with code 2; library code raises it for inputs that
    come from outside the program (files, configurations), and `ValueError`/`TypeError` for wrong arguments.
    """


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name that ``name`` most likely stands for, whatever its case, or None."""
    by_lower = {valid_name.lower(): valid_name for valid_name in valid}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[found[0]] if found else None


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the nearest valid name, else the valid names themselves."""
    names = sorted(valid)
    found = nearest(name, names)
    return f"; did you mean {found!r}?" if found else f"; valid: {', '.join(names)}"
