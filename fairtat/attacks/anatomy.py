"""A model taken apart: what a program or a graph that was made from it depends on, and what neither can hold."""

from __future__ import annotations

import types
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module


@dataclass(frozen=True)
class Anatomy:
    """A model taken apart on one walk, which has to be short: it comes before every attack."""

    modules: dict[str, nn.Module]
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]

    @classmethod
    def of(cls, model: nn.Module) -> Anatomy:
        modules: dict[str, nn.Module] = {}
        parameters: dict[str, Tensor] = {}
        buffers: dict[str, Tensor] = {}
        seen: set[int] = set()
        waiting = [("", model)]
        while waiting:
            name, module = waiting.pop()
            if id(module) in seen:
                continue
            seen.add(id(module))
            modules[name] = module
            prefix = name and name + "."
            for found, own in ((parameters, module._parameters), (buffers, module._buffers)):
                for key, tensor in own.items():
                    # What two layers share has one name: functional_call ties the others to it.
                    if tensor is not None and id(tensor) not in seen:
                        seen.add(id(tensor))
                        found[prefix + key] = tensor
            waiting += [(prefix + key, child) for key, child in module._modules.items() if child is not None]
        return cls(modules, parameters, buffers)

    def signature(self, *, addresses: bool = False) -> Hashable:
        """All of a model that a trace of its forward may take as constant: layers, settings, shapes of tensors.

        With ``addresses``, where its tensors lie as well, those among the modules' plain attributes included.
        Attributes other than numbers, text, tuples of those, functions and tensors are not looked into.
        """
        parts: list[Any] = []
        for name, module in self.modules.items():
            parts += (name, type(module))
            for attribute, value in vars(module).items():
                kind = _KINDS[type(value)]
                if kind is None:
                    continue
                if kind is _PLAIN:  # with its type: 1, 1.0 and True are equal, but not the same setting
                    parts += (attribute, type(value), value)
                elif kind is _CODE:
                    parts += (attribute, value)
                elif kind is _TUPLE:
                    parts += (attribute, _plain(value))
                elif addresses:
                    parts += (attribute, value.data_ptr(), *layout(value))
        for tensors in (self.parameters, self.buffers):
            for name, t in tensors.items():
                parts += (name, *layout(t))
            if addresses:
                parts += [t.data_ptr() for t in tensors.values()]
        return tuple(parts)

    def hooks(self) -> str | None:
        """Whose hooks would run only once, while the model is traced or captured; None: nobody's."""
        if nn_module._has_any_global_hook():
            return "global module hooks"
        for name, module in self.modules.items():
            if (
                module._forward_hooks
                or module._forward_pre_hooks
                or module._backward_hooks
                or module._backward_pre_hooks
            ):
                return f"the hooks of {name or 'the model'}"
        return None

    @property
    def compiled(self) -> bool:
        """Whether torch.compile is at work in a part of the model."""
        return any(
            "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None
            for module in self.modules.values()
        )

    @contextmanager
    def untouched(self) -> Iterator[list[str]]:
        """Undo what a forward does to its modules' attributes; afterwards the list holds their names."""
        before = [(name, module, _attributes(module)) for name, module in self.modules.items()]
        changed: list[str] = []
        try:
            yield changed
        finally:
            for name, module, (attributes, buffers) in before:
                for then, now in ((attributes, vars(module)), (buffers, module._buffers)):
                    differing = [key for key in {**then, **now} if now.get(key, now) is not then.get(key, before)]
                    changed += [f"{name}.{key}".lstrip(".") for key in differing]
                    if differing:
                        now.clear()
                        now.update(then)


def _attributes(module: nn.Module) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    return dict(vars(module)), dict(module._buffers)


_PLAIN, _CODE, _TUPLE, _TENSOR = "plain", "code", "tuple", "tensor"


class _Kinds(dict[type, "str | None"]):
    """How the values of a type count; this is asked a thousand times before every attack."""

    def __missing__(self, kind: type) -> str | None:
        found = self[kind] = _TENSOR if issubclass(kind, Tensor) else None
        return found


_COUNTED: dict[str, tuple[type, ...]] = {
    _PLAIN: (bool, int, float, str, type(None), torch.dtype, torch.Size),
    _CODE: (types.FunctionType, types.BuiltinFunctionType, type),
    _TUPLE: (tuple,),
}
_KINDS = _Kinds({kind: name for name, kinds in _COUNTED.items() for kind in kinds})


def layout(t: Tensor) -> tuple[Hashable, ...]:
    return t.dtype, t.device, t.shape, t.stride()


def _plain(value: object) -> Hashable:
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return (type(value), value) if _KINDS[type(value)] is _PLAIN else id(value)
