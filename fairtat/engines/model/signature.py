"""What a model is made of besides its layers, as values to compare: settings, containers, objects, code."""

from __future__ import annotations

import enum
import functools
import logging
import numbers
import re
import sys
import types
import weakref
from collections import deque
from collections.abc import Callable, Collection, Hashable, Mapping
from pathlib import PurePath
from typing import Any, Generic, NamedTuple, Protocol

import torch
from torch import Tensor, fx, nn
from torch._ops import OperatorBase, OpOverloadPacket

MAX_VALUES = 20_000  # in containers and objects, on one walk: some milliseconds
MAX_DEPTH = 12
MAX_BYTES = 4096  # of an array that is compared by its values
MAX_PLAIN = 8  # numbers in a tuple or list of one type, which is compared as it is


class Signature(NamedTuple):
    """A model at one moment: what was made of it serves it for as long as it has the same."""

    structure: Hashable  # layers, shapes and, for a graph, addresses
    settings: Hashable  # values and code that a forward may read
    unseen: str | None  # an attribute that could not be looked into; None: there is none


class Inspection:
    """One walk over the values that modules hold, which keeps none of them alive: a signature is held by its model.

    What changes in place counts by its contents: dicts, lists, sets, the attributes of objects. Functions count by
    identity, code, defaults and what is plain in their closure; a class by its methods and attributes and its bases'.
    """

    def __init__(self, modules: Mapping[str, nn.Module], *, addresses: bool) -> None:
        self.addresses: list[Hashable] | None = [] if addresses else None  # of the tensors that were met
        self.unseen: str | None = None
        self.within = ""  # which module
        self._attribute = ""
        self._left = MAX_VALUES
        self._met: dict[int, Hashable] = {id(module): name for name, module in modules.items()}

    def attribute(self, name: str, value: object) -> Hashable:
        """An attribute of the module that the walk is within."""
        self._attribute = name
        return name, self.see(value)

    def see(self, value: Any, depth: int = 0) -> Hashable:
        """The value as another one, which is equal for as long as what a forward reads there is the same."""
        look = KINDS[type(value)]
        if look is None:  # with its type: 1, 1.0 and True are equal, but not the same setting
            return type(value), value
        self._left -= 1
        if depth > MAX_DEPTH or self._left < 0:
            return self._hidden(value)
        return look(self, value, depth + 1)

    def see_class(self, cls: type, depth: int = 0) -> Hashable:
        """The methods and attributes of a class and of its bases, each class once."""
        parts: list[Hashable] = [weakref.ref(cls)]
        for base in cls.__mro__:
            if base in BASES or id(base) in self._met:
                continue
            self._met[id(base)] = len(self._met)
            for name, value in vars(base).items():
                if type(value) is types.FunctionType:
                    parts.append(self._function(value, depth + 1))
                elif not name.startswith("__"):
                    parts += (name, self.see(value, depth + 1))
        return tuple(parts)

    def _hidden(self, value: object) -> Hashable:
        self.unseen = self.unseen or f"{self.within}.{self._attribute}".strip(".")
        return type(value).__qualname__

    def _once(self, value: object, parts: Callable[[], Hashable]) -> Hashable:
        """What several places share is looked into at the first one; so is what holds itself."""
        met = self._met.get(id(value))
        if met is not None:
            return met
        self._met[id(value)] = len(self._met)
        return parts()

    def _all(self, values: Collection[object], depth: int) -> tuple[Hashable, ...]:
        self._left -= len(values)
        if self._left < 0:
            return (self._hidden(values),)
        kinds = KINDS
        return tuple([(type(v), v) if kinds[type(v)] is None else self.see(v, depth) for v in values])

    def _items(self, value: Any, depth: int) -> Hashable:
        kind = type(value)
        if kind in BASES:
            kinds = tuple(map(type, value)) if len(value) <= MAX_PLAIN else ()
            if kinds in _PLAIN:  # such as the stride of a convolution
                return kind, kinds, tuple(value)
            return kind, self._all(value, depth)
        return weakref.ref(kind), self._all(value, depth), self._attributes(value, depth)

    def _list(self, value: Any, depth: int) -> Hashable:
        return self._once(value, lambda: self._items(value, depth))

    def _set(self, value: Any, depth: int) -> Hashable:
        return weakref.ref(type(value)), frozenset(self._all(list(value), depth))

    def _mapping(self, value: Any, depth: int) -> Hashable:
        def parts() -> Hashable:
            keys, values = list(value), list(value.values())  # copies, as another thread may be writing
            own = None if type(value) is dict else self._attributes(value, depth)
            return weakref.ref(type(value)), self._all(keys, depth), self._all(values, depth), own

        return self._once(value, parts)

    def _object(self, value: object, depth: int) -> Hashable:
        def parts() -> Hashable:
            attributes = self._attributes(value, depth)
            return self._hidden(value) if attributes is None else (self.see_class(type(value), depth), attributes)

        return self._once(value, parts)

    def _attributes(self, value: object, depth: int) -> Hashable:
        """Those in an object's dict and slots, and no property; None: it has neither."""
        slots = _slots(type(value))
        own = getattr(value, "__dict__", None)
        if own is None and not slots:
            return None
        found = {**(own or {}), **{name: getattr(value, name) for name in slots if hasattr(value, name)}}
        return tuple(found), self._all(found.values(), depth)

    def _function(self, value: types.FunctionType, depth: int) -> Hashable:
        parts: tuple[Hashable, ...] = (weakref.ref(value), value.__code__)
        if not (value.__defaults__ or value.__kwdefaults__ or value.__closure__):
            return parts
        # Of a closure, numbers, text and functions. What is larger there is the world outside, as global variables are.
        closure = [cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType()]
        held = [v for v in closure if KINDS[type(v)] in (None, Inspection._function)]
        return self._once(
            value, lambda: (*parts, self._all((value.__defaults__, value.__kwdefaults__, tuple(held)), depth))
        )

    def _method(self, value: Any, depth: int) -> Hashable:
        return self._all((value.__func__, value.__self__), depth)

    def _wrapper(self, value: Any, depth: int) -> Hashable:
        return type(value), self.see(value.__func__, depth)

    def _property(self, value: property, depth: int) -> Hashable:
        return self.see(value.fget, depth)

    def _partial(self, value: Any, depth: int) -> Hashable:
        return self._all((value.func, value.args, value.keywords), depth)

    def _class(self, value: type, depth: int) -> Hashable:
        return weakref.ref(value) if _is_torchs(value) else self.see_class(value, depth)

    def _tensor(self, value: Tensor, depth: int) -> Hashable:
        if value.layout is not torch.strided:
            return self._hidden(value)
        where = value.data_ptr(), *layout(value)
        version = None if value.is_inference() else value._version
        if self.addresses is None:  # what a trace takes from a tensor that is not an input are numbers, as of then
            return where, version
        self.addresses += where
        # So does a captured kernel that has a number on the CPU for an argument; others read where they lie.
        return version if value.device.type == "cpu" else None

    def _array(self, value: Any, depth: int) -> Hashable:
        if value.nbytes > MAX_BYTES or value.dtype.hasobject:
            return self._hidden(value)
        return value.dtype, value.shape, value.tobytes()

    def _identity(self, value: object, depth: int) -> Hashable:
        try:
            return weakref.ref(value)
        except TypeError:
            return id(value)

    def _nothing(self, value: object, depth: int) -> Hashable:
        return None


Look = Callable[[Inspection, Any, int], Hashable]


class _Kinds(dict[type, "Look | None"]):
    """How the values of a type are looked at; None: as they are. This is asked a thousand times before every attack."""

    def __missing__(self, kind: type) -> Look | None:
        if len(self) > 1000:  # classes that are made and dropped
            self.clear()
        numpy = sys.modules.get("numpy")  # which may not be installed, and has no values then
        if numpy is not None and issubclass(kind, (numpy.ndarray, numpy.generic, numpy.dtype)):
            look = self[kind] = Inspection._array if issubclass(kind, numpy.ndarray) else None
            return look
        # PyTorch's inner objects lead to all of a compiler, and have no settings of a model.
        other = Inspection._identity if kind.__module__.startswith("torch._") else Inspection._object
        found = self[kind] = next((look for bases, look in _LOOKS if issubclass(kind, bases)), other)
        return found


_LOOKS: tuple[tuple[tuple[type, ...], Look | None], ...] = (
    ((enum.Enum, fx.Graph, logging.Logger, types.ModuleType, OperatorBase, OpOverloadPacket), Inspection._identity),
    ((bool, numbers.Number, str, bytes, type(None), torch.Size, PurePath, re.Pattern, range), None),
    ((torch.dtype, torch.device, torch.layout, torch.memory_format, types.CodeType), None),
    ((types.BuiltinFunctionType, types.MethodWrapperType, types.MethodDescriptorType, type(...)), None),
    ((types.GetSetDescriptorType, types.MemberDescriptorType), Inspection._nothing),
    ((type,), Inspection._class),
    ((Tensor,), Inspection._tensor),
    ((tuple,), Inspection._items),
    ((list, deque), Inspection._list),
    ((set, frozenset), Inspection._set),
    ((dict, types.MappingProxyType), Inspection._mapping),
    ((types.FunctionType,), Inspection._function),
    ((types.MethodType,), Inspection._method),
    ((staticmethod, classmethod), Inspection._wrapper),
    ((property,), Inspection._property),
    ((functools.partial,), Inspection._partial),
)
KINDS = _Kinds()
_PLAIN = frozenset((kind,) * n for kind in (int, float, bool, str) for n in range(1, MAX_PLAIN + 1))
# What every module has, beside its mode: tensors, children and hooks, which are looked at separately.
OF_EVERY_MODULE = frozenset(vars(nn.Module())) - {"training"}
BASES = frozenset((nn.Module, object, type, Generic, Protocol, enum.Enum, tuple, list, deque))


def layout(t: Tensor) -> tuple[Hashable, ...]:
    """How a tensor lies in memory, but not where."""
    return t.dtype, t.device, t.shape, t.stride()


def _is_torchs(value: Any) -> bool:
    return str(value.__module__).partition(".")[0] == "torch"


def _slots(cls: type) -> list[str]:
    return [
        name
        for base in cls.__mro__
        if "__slots__" in vars(base)
        for name, member in vars(base).items()
        if isinstance(member, types.MemberDescriptorType)
    ]
