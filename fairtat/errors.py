"""The one exception for mistakes that a user can correct, suggestions, and warnings."""

from __future__ import annotations

import difflib
import sys
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

__all__ = ["UserError", "did_you_mean", "first_time", "nearest", "renamed", "starts_at_1", "warn_caller", "warn_once"]


class UserError(Exception):
    """A wrong input, file, key or setting: the message is one line that says what to change.

    The command line prints it as ``error: ...`` and exits with code 2; library code raises it for inputs that
    come from outside the program (files, configurations), and `ValueError`/`TypeError` for wrong arguments.
    """


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name that ``name`` most likely means, whatever its case, or None."""
    by_lower = {valid_name.lower(): valid_name for valid_name in valid}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return by_lower[found[0]] if found else None


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the nearest valid name, else the valid names themselves."""
    names = sorted(valid)
    found = nearest(name, names)
    return f"; did you mean {found!r}?" if found else f"; valid: {', '.join(names)}"


def starts_at_1(first: int, last: int, classes: int) -> str:
    """What to add to the message that labels from ``first`` to ``last`` are too large for so many classes."""
    return "; if the labels start at 1, subtract 1" if first > 0 and last == classes else ""


def warn_caller(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn about the call of fairtat, at the line of the caller."""
    ours = ("fairtat", "dataclasses")  # which runs __post_init__ for us
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in ours:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def renamed(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a module in which old names (the keys) work for one more release, with a warning."""

    def attribute(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn_caller(f"{module}.{name} is now {names[name]}", DeprecationWarning)
        return getattr(sys.modules[module], names[name])

    return attribute


_SAID: set[Hashable] = set()


def first_time(key: Hashable) -> bool:
    """Whether this is the first call with this key in this process."""
    if key in _SAID:
        return False
    _SAID.add(key)
    return True


def warn_once(message: str, key: Hashable = None) -> None:
    """`warn_caller`, once in a process for each key, which is the message if none is given."""
    if first_time(message if key is None else key):
        warn_caller(message)
