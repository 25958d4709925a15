"""A fingerprint of a model: everything cheap to look at that may decide what it computes."""

from __future__ import annotations

import collections
import dis
import functools
import hashlib
import sys
import types
from argparse import Namespace
from collections.abc import Iterable, Mapping
from numbers import Number
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["fingerprint", "tensor_bytes"]

LIMIT = 50_000
"""Objects that are looked into: a model may hold on to more than itself, such as a trainer with its data."""

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_STATE = ("_parameters", "_buffers", "_modules")
_INTERNAL = frozenset(vars(nn.Module()))
_PLAIN = (type(None), Number, str, bytes, PurePath, torch.dtype, torch.device, np.generic, range, slice)
_NOT_CODE = frozenset(
    ("__dict__", "__weakref__", "__doc__", "__annotations__", "__module__", "__firstlineno__", "__static_attributes__")
)
# Code of these is named, not looked into.
_KNOWN = frozenset(sys.stdlib_module_names) | {"numpy", "torch"}


def fingerprint(model: nn.Module) -> str:
    """Tells models apart that differ in state, attributes, hooks or code; the same for the same model in any process.

    Parameters, buffers of both kinds, plain attributes (looked into, up to `LIMIT` objects), hooks, and the code of
    classes and functions, with the globals that it names. Whether a module is in train mode does not count. A model
    that counts its calls in an attribute changes with each call.
    """
    found = _Fingerprint()
    found.say("torch", torch.__version__)
    found.add(model)
    return found.hexdigest()


def tensor_bytes(tensor: Tensor) -> memoryview:
    """A tensor's values in order, for hashing; of any dtype, also bfloat16."""
    flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")


class _Fingerprint:
    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._seen: dict[int, int] = {}
        self._alive: list[object] = []  # so that no id is given to another object meanwhile

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def say(self, *words: object) -> None:
        self._hash.update(repr(words).encode())

    def add(self, value: Any) -> None:
        if isinstance(value, _PLAIN):
            self.say(type(value).__name__, value)
        elif id(value) in self._seen:
            self.say("seen before", self._seen[id(value)])
        elif len(self._seen) >= LIMIT:
            self.say("not looked into", _name(type(value)))
        elif isinstance(value, (tuple, types.CodeType)):
            self._look_into(value)  # whether equal ones are one object depends on how the code was loaded
        else:
            self._seen[id(value)] = len(self._seen)
            self._alive.append(value)
            self._look_into(value)

    def _look_into(self, value: Any) -> None:
        kind = type(value)
        self.say(_name(kind))
        if isinstance(value, torch.jit.ScriptModule):
            self.say(str(value.inlined_graph))
            self._items(value.state_dict())
        elif isinstance(value, nn.Module):
            self._module(value)
        elif isinstance(value, Tensor):
            self._tensor(value)
        elif isinstance(value, np.ndarray):
            self.say(value.dtype, value.shape)
            self.add(value.tolist() if value.dtype.hasobject else value.tobytes())
        elif isinstance(value, Mapping):
            self._items(value)
        elif isinstance(value, (list, tuple, collections.deque)):
            self._all(value)
        elif isinstance(value, (set, frozenset)):
            self.say(sorted(map(repr, value)))  # their order differs from process to process
        elif isinstance(value, types.FunctionType):
            self._function(value)
        elif isinstance(value, types.CodeType):
            self._code(value)
        elif isinstance(value, types.MethodType):
            self._all((value.__func__, value.__self__))
        elif isinstance(value, functools.partial):
            self._all((value.func, value.args, value.keywords))
        elif isinstance(value, (classmethod, staticmethod)):
            self.add(value.__func__)
        elif isinstance(value, property):
            self._all((value.fget, value.fset))
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, (types.SimpleNamespace, Namespace)) or not _known(kind):
            self._class(kind)
            self._items(getattr(value, "__dict__", {}))
            self._items({name: getattr(value, name, None) for name in _slots(kind)})
        else:
            # A builtin has only its name; for other objects the name would not help.
            self.say(getattr(value, "__module__", None), getattr(value, "__qualname__", None))

    def _all(self, values: Iterable[object]) -> None:
        for value in values:
            self.add(value)

    def _items(self, values: Mapping[Any, Any]) -> None:
        self.say(len(values))
        for key, value in values.items():
            self.add(key)
            self.add(value)

    def _tensor(self, tensor: Tensor) -> None:
        self.say(tuple(tensor.shape), tensor.dtype, tensor.layout)
        if tensor.layout == torch.strided and not tensor.is_quantized and not tensor.is_meta:
            self._hash.update(tensor_bytes(tensor))
        else:
            self.say(str(tensor))

    def _module(self, module: nn.Module) -> None:
        compiled_from = module._modules.get("_orig_mod")
        if compiled_from is not None:  # of torch.compile's wrapper the rest is bookkeeping
            self.add(compiled_from)
            return
        self._class(type(module))
        for name in _STATE:
            self._items(getattr(module, name))
        for name in _HOOKS:
            self._all(getattr(module, name, {}).values())  # their keys are handles, numbered over the whole process
        self._items({name: value for name, value in vars(module).items() if name not in _INTERNAL})

    def _class(self, kind: type) -> None:
        for each in kind.__mro__:
            self.say(_name(each))
            if not _known(each):
                self._items({name: value for name, value in sorted(vars(each).items()) if name not in _NOT_CODE})

    def _function(self, function: types.FunctionType) -> None:
        self.say(function.__module__, function.__qualname__)
        if _in_known(function.__module__):
            return
        self._all((function.__code__, function.__defaults__, function.__kwdefaults__))
        for cell in function.__closure__ or ():
            try:
                self.add(cell.cell_contents)
            except ValueError:
                self.say("empty cell")
        for name in sorted(_globals_named(function.__code__)):
            value = function.__globals__.get(name)
            if not isinstance(value, types.ModuleType):
                self.say(name)
                self.add(value)

    def _code(self, code: types.CodeType) -> None:
        self.say(code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_flags)
        self._all(code.co_consts)


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _known(kind: type) -> bool:
    return _in_known(kind.__module__)


def _in_known(module: object) -> bool:
    return isinstance(module, str) and module.partition(".")[0] in _KNOWN


def _slots(kind: type) -> list[str]:
    named = [vars(each).get("__slots__", ()) for each in kind.__mro__]
    flat = [name for names in named for name in ((names,) if isinstance(names, str) else names)]
    return [name for name in flat if name not in ("__dict__", "__weakref__")]


def _globals_named(code: types.CodeType) -> set[str]:
    found = {each.argval for each in dis.get_instructions(code) if each.opname == "LOAD_GLOBAL"}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= _globals_named(constant)
    return found
