"""One record for each op: its kernel, what the kernel takes, and what it makes."""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ParamSpec, TypeVar

from torch import Tensor

P = ParamSpec("P")
A = TypeVar("A")
R = TypeVar("R")

_WRITTEN = "written"
Written = Annotated[Tensor, _WRITTEN]
"""The type of an argument that the kernel writes to."""


def taking(arguments: Callable[P, A]) -> Callable[[Callable[[A], R]], Callable[P, R]]:
    """Turn a function of one record of arguments into one that takes them one by one.

    So the record, a NamedTuple, is the one place that lists them, with their types and defaults::

        @taking(LogitLossArgs)
        def logit_loss(a: LogitLossArgs) -> ...:
    """

    fields = len(typing.cast(Any, arguments)._fields)
    record: Callable[..., A] = tuple.__new__  # which takes a third of the time, for arguments that need no defaults

    def wrap(kernel: Callable[[A], R]) -> Callable[P, R]:
        @functools.wraps(kernel)
        def call(*values: P.args, **named: P.kwargs) -> R:
            if len(values) == fields and not named:
                return kernel(record(arguments, values))
            return kernel(arguments(*values, **named))

        return call

    return wrap


@dataclass(frozen=True)
class Argument:
    """One argument of an op, as its schema describes it."""

    name: str
    type: str  # of a schema: "Tensor", "float", "SymInt", "bool" or "str"
    optional: bool
    written: bool


@dataclass(frozen=True)
class Definition:
    """What an op is, in every layer.

    An argument named `out` is not one of the op: the op makes it, and returns it.
    """

    kernel: Callable[..., Any]  # the reference; a backend's has the same name and takes the same
    arguments: type[Any]  # the NamedTuple that lists them
    makes: Callable[..., Any] | None = None  # empty results, from the op's arguments; None: the op returns nothing

    @property
    def name(self) -> str:
        """What the kernel is called in each backend: an underscore ends the name of one that works in place."""
        return self.kernel.__name__

    @property
    def makes_out(self) -> bool:
        return "out" in self.arguments._fields

    def op_arguments(self) -> tuple[Argument, ...]:
        hints = typing.get_type_hints(self.arguments, include_extras=True)
        return tuple(_argument(name, hints[name]) for name in self.arguments._fields if name != "out")

    def results(self) -> int:
        """How many tensors the op returns."""
        returned = typing.get_type_hints(self.kernel)["return"]
        if self.makes_out or returned is Tensor:
            return 1
        return 0 if returned is types.NoneType else len(typing.get_args(returned))


_SCHEMA_TYPES = {float: "float", int: "SymInt", bool: "bool", str: "str", Tensor: "Tensor"}


def _argument(name: str, hint: Any) -> Argument:
    parts = typing.get_args(hint) if types.NoneType in typing.get_args(hint) else (hint,)
    kind = next(part for part in parts if part is not types.NoneType)
    written = typing.get_origin(kind) is Annotated and _WRITTEN in kind.__metadata__
    plain = typing.get_args(kind)[0] if typing.get_origin(kind) is Annotated else kind
    return Argument(name, _SCHEMA_TYPES[plain], optional=len(parts) > 1, written=written)
