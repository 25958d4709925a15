"""What is kept of a model between attacks: its programs by options and shapes, or why it has none.

A record lives as long as its model, which it does not hold. Nothing is locked: one thread attacks a model at a time.
"""

from __future__ import annotations

import types
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from fairtat.attacks.compiled_program import Program

MOST_FAMILIES = 6  # of options and image shapes: a trainer has two, its attack and its validation's
MOST_SIZES = 3  # of the batch in each


@dataclass
class Family:
    """Programs that differ in nothing but the size of the batch."""

    signature: Hashable = None  # of the model that they were traced from
    programs: OrderedDict[int, Program] = field(default_factory=OrderedDict)
    last_size: int = 0
    unfit: str | None = None  # why this cannot be compiled

    def add(self, size: int, program: Program) -> None:
        self.programs[size] = program
        while len(self.programs) > MOST_SIZES:
            self.programs.popitem(last=False)

    def size_for(self, n: int) -> int | None:
        """The size of the program that serves n samples; None: this batch is not worth one.

        A batch that is smaller than those before is an epoch's last, most likely: compiling for it would cost more than
        it could save. It is padded if it fills half of a program. A size that comes twice in a row is here to stay.
        """
        repeated, self.last_size = n == self.last_size, n
        larger = [size for size in self.programs if size >= n]
        if n in larger or repeated or not larger:
            return n
        smallest = min(larger)
        return smallest if 2 * n >= smallest else None


@dataclass
class Record:
    """All that is kept of one model."""

    families: OrderedDict[Hashable, Family] = field(default_factory=OrderedDict)
    warned: set[str] = field(default_factory=set)

    def family(self, settings: Hashable, signature: Hashable) -> Family:
        """The programs for these settings; a fresh start for a model that was fit and is no longer what it was."""
        found = self.families.get(settings)
        if found is None or (found.signature != signature and found.unfit is None):
            found = self.families[settings] = Family(signature)
        self.families.move_to_end(settings)
        while len(self.families) > MOST_FAMILIES:
            self.families.popitem(last=False)
        return found


_RECORDS: WeakKeyDictionary[nn.Module, Record] = WeakKeyDictionary()


def record_of(model: nn.Module) -> Record:
    return _RECORDS.setdefault(model, Record())


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

    def signature(self) -> Hashable:
        """All of a model that a trace of its forward may take as constant: layers, settings, shapes of tensors.

        Attributes other than numbers, text, tuples of those and functions are not looked into.
        """
        parts: list[Any] = []
        for name, module in self.modules.items():
            parts.extend((name, type(module)))
            for attribute, value in vars(module).items():
                kind = type(value)
                if kind in _PLAIN:  # with its type: 1, 1.0 and True are equal, but not the same setting
                    parts.extend((attribute, kind, value))
                elif kind in _CODE:
                    parts.extend((attribute, value))
                elif kind is tuple:
                    parts.extend((attribute, _plain(value)))
        for tensors in (self.parameters, self.buffers):
            parts.extend((name, *layout(t)) for name, t in tensors.items())
        return tuple(parts)


_PLAIN = frozenset({bool, int, float, str, type(None), torch.dtype, torch.Size})
_CODE = frozenset({types.FunctionType, types.BuiltinFunctionType, type})


def layout(t: Tensor) -> tuple[Hashable, ...]:
    return t.dtype, t.device, t.shape, t.stride()


def _plain(value: object) -> Hashable:
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return (type(value), value) if type(value) in _PLAIN else id(value)
