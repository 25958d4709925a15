"""A glance at a model: whether it is what it was at the last thorough look, at a fraction of the cost of one.

Before a replay there is nothing to do but this, so it makes no Python call for a module, a tensor or a setting: what a
thorough look (`structure`, `signature`) takes apart is compared here in a few passes of C over flat lists. Values that
cannot change in place are compared by identity, as equality would take 1 for True. A value is kept alive only if it
cannot lead back to the model; of others weak references tell whether an identity is still theirs. What can change in
place, beyond lists of numbers and plain functions, is looked into as a thorough look does. More is compared than a
signature holds, never less.
"""

from __future__ import annotations

import types
import weakref
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, compress
from operator import attrgetter, itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module

from fairtat.engines.model.signature import BASES, KINDS, OF_EVERY_MODULE, Inspection

_TENSORS = (Tensor, nn.Parameter, nn.Buffer)  # others may say anything of themselves
_HOOKS = itemgetter("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_HELD_APART = OF_EVERY_MODULE | {"__annotations__", "__doc__", "__dict__", "__weakref__"}
_PARTS_OF_FUNCTION = attrgetter("__code__", "__defaults__", "__kwdefaults__")
_DESCRIPTORS = (types.GetSetDescriptorType, types.MemberDescriptorType)


class Unclear(Exception):
    """A glance would not do for this model."""


class Glance:
    """A model at one moment, to be compared with what it is later. It keeps neither a module nor a tensor alive."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        """``modules``: all of the model, each once.

        Raises:
            Unclear: there is something that only a thorough look sees.
        """
        if any(isinstance(module, torch.jit.ScriptModule) for module in modules) or _hooked(modules):
            raise Unclear
        self._modules = [weakref.ref(module) for module in modules]
        self._kinds = [weakref.ref(type(module)) for module in modules]
        namespaces = [*map(vars, modules)]
        self._children = _children(namespaces)
        self._tensor_names, values = _tensors(namespaces)
        self._absent = [value is None for value in values]
        tensors = [t for t in values if t is not None]
        if any(type(t) not in _TENSORS or t.layout is not torch.strided for t in tensors):
            raise Unclear
        self._tensors = [weakref.ref(t) for t in tensors]
        self._layouts = _layouts(tensors)
        bases = _bases(modules)
        self._bases = [weakref.ref(base) for base in bases]
        named = dict(zip(map(str, range(len(modules))), modules, strict=True))
        self._own = _Values(namespaces, named)
        self._of_classes = _Values([*map(vars, bases)], named)

    def same(self) -> list[nn.Module] | None:
        """The modules, if the model is what it was; None: it may not be."""
        modules = _alive(self._modules)
        if [*map(type, modules)] != _alive(self._kinds) or _hooked(modules):
            return None
        namespaces = [*map(vars, modules)]
        if _children(namespaces) != self._children:
            return None
        names, values = _tensors(namespaces)
        if names != self._tensor_names or [value is None for value in values] != self._absent:
            return None
        tensors = [t for t in values if t is not None]
        if not _identical(tensors, _alive(self._tensors)) or _layouts(tensors) != self._layouts:
            return None
        bases = _bases(modules)
        if bases != _alive(self._bases):
            return None
        if not self._own.same(namespaces, modules) or not self._of_classes.same([*map(vars, bases)], modules):
            return None
        return modules


class _Values:
    """The values of some namespaces, of modules or of classes."""

    def __init__(self, namespaces: Sequence[Mapping[str, Any]], modules: Mapping[str, nn.Module]) -> None:
        self._names, values = _flat(namespaces)
        kinds = [
            None if name in _HELD_APART else _kind(value) for name, value in zip(self._names, values, strict=False)
        ]
        self._fixed, self._lists, self._functions, self._deep = (
            [kind == wanted for kind in kinds] for wanted in ("fixed", "list", "function", "deep")
        )
        self._kept = [*compress(values, self._fixed)]  # so that these identities remain theirs
        self._ids = [*map(id, self._kept)]
        lists = [*compress(values, self._lists)]
        self._kept_of_lists = [*chain.from_iterable(lists)]
        self._lengths = [*map(len, lists)]
        functions = [*compress(values, self._functions)]
        self._function_refs = [weakref.ref(function) for function in functions]
        self._kept_of_functions = _parts(functions)
        self._deep_values = self._look(values, modules)

    def same(self, namespaces: Sequence[Mapping[str, Any]], modules: Sequence[nn.Module]) -> bool:
        names, values = _flat(namespaces)
        if names != self._names or [*map(id, compress(values, self._fixed))] != self._ids:
            return False
        lists = [*compress(values, self._lists)]
        if lists and ({*map(type, lists)} != {list} or [*map(len, lists)] != self._lengths):
            return False
        if not _identical(chain.from_iterable(lists), self._kept_of_lists):
            return False
        functions = [*compress(values, self._functions)]
        if not _identical(functions, _alive(self._function_refs)):
            return False
        if not _identical(_parts(functions), self._kept_of_functions):
            return False
        if not self._deep_values[0]:
            return True
        named = dict(zip(map(str, range(len(modules))), modules, strict=True))
        return self._look(values, named) == self._deep_values

    def _look(self, values: Sequence[Any], modules: Mapping[str, nn.Module]) -> tuple[Any, ...]:
        deep = [*compress(values, self._deep)]
        if not deep:
            return (), None, None
        inspection = Inspection(modules, addresses=True)
        return [inspection.see(value) for value in deep], inspection.addresses, inspection.unseen


def _kind(value: Any) -> str | None:
    """How a value is compared; None: it says nothing of what is computed."""
    if isinstance(value, _DESCRIPTORS):
        return None
    if _is_fixed(value):
        return "fixed"
    if type(value) is list and all(map(_is_fixed, value)):
        return "list"
    if type(value) is types.FunctionType and _is_simple(value):
        return "function"
    return "deep"


def _is_fixed(value: Any) -> bool:
    """Whether a value cannot change in place."""
    return KINDS[type(value)] is None or (type(value) is tuple and all(map(_is_fixed, value)))


def _is_simple(function: types.FunctionType) -> bool:
    """Whether code and fixed defaults are all there is; the classes that `super` needs do not count."""
    closure = function.__closure__ or ()
    if any(cell == types.CellType() for cell in closure) or not _is_fixed(function.__defaults__):
        return False
    keywords = (function.__kwdefaults__ or {}).values()
    return all(map(_is_fixed, keywords)) and all(isinstance(cell.cell_contents, type) for cell in closure)


def _identical(values: Iterable[Any], kept: Iterable[Any]) -> bool:
    return [*map(id, values)] == [*map(id, kept)]


def _alive(refs: Sequence[weakref.ref[Any]]) -> list[Any]:
    """What they refer to; None for what is gone, which nothing that is there is identical with."""
    return [ref() for ref in refs]


def _flat(namespaces: Sequence[Mapping[str, Any]]) -> tuple[list[Any], list[Any]]:
    """(Names and how many there are in each, values) of all of them."""
    names = [*chain.from_iterable(namespaces), *map(len, namespaces)]
    return names, [*chain.from_iterable([space.values() for space in namespaces])]


def _parts(functions: Sequence[types.FunctionType]) -> list[Any]:
    parts = [*map(_PARTS_OF_FUNCTION, functions)]
    keywords = [item for _, _, given in parts if given for pair in given.items() for item in pair]
    return [*chain.from_iterable(parts), *keywords]


def _bases(modules: Sequence[nn.Module]) -> list[type]:
    """The classes of the modules and their bases, each once."""
    orders = [kind.__mro__ for kind in dict.fromkeys(map(type, modules))]
    return [base for base in dict.fromkeys(chain.from_iterable(orders)) if base not in BASES]


def _hooked(modules: Sequence[nn.Module]) -> bool:
    if nn_module._has_any_global_hook():
        return True
    return any(chain.from_iterable(map(_HOOKS, map(vars, modules))))


def _children(namespaces: Sequence[Mapping[str, Any]]) -> tuple[list[Any], list[int]]:
    names, values = _flat([space["_modules"] for space in namespaces])
    return names, [*map(id, values)]


def _tensors(namespaces: Sequence[Mapping[str, Any]]) -> tuple[list[Any], list[Tensor | None]]:
    """(Names, values) of parameters and buffers; a buffer that becomes a parameter is another tensor."""
    return _flat([space[of] for of in ("_parameters", "_buffers") for space in namespaces])


def _layouts(tensors: Sequence[Tensor]) -> tuple[list[Any], ...]:
    """Where and how tensors lie."""
    return (
        [*map(Tensor.data_ptr, tensors)],
        [*map(Tensor.size, tensors)],
        [*map(Tensor.stride, tensors)],
        [*map(attrgetter("dtype"), tensors)],
    )
