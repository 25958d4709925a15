"""The structure of a model: what a program or a graph built from it depends on, and what neither can hold."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module

from fairtat.engines.model.signature import KINDS, OF_EVERY_MODULE, Inspection, Signature, layout


@dataclass(frozen=True)
class ModelStructure:
    """A model's modules and tensors, from one walk, which has to be short: it comes before every attack."""

    modules: dict[str, nn.Module]
    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]

    @classmethod
    def of(cls, model: nn.Module) -> ModelStructure:
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

    def kept(self) -> Callable[[], ModelStructure]:
        """What gives this structure again, and keeps nothing of the model alive; for as long as the model has it."""
        parts = [
            [(name, weakref.ref(value)) for name, value in part.items()]
            for part in (self.modules, self.parameters, self.buffers)
        ]
        return lambda: ModelStructure(*[{name: ref() for name, ref in part} for part in parts])  # type: ignore[arg-type]

    def signature(self, *, addresses: bool = False) -> Signature:
        """All of a model that a trace of its forward may take as constant: layers, settings, code, shapes of tensors.

        With ``addresses``, where its tensors lie as well, those among the modules' attributes included. What a forward
        reads of the world outside its modules (global variables, files, other libraries) is not part of it.
        """
        seen_values = Inspection(self.modules, addresses=addresses)
        structure: list[Hashable] = []
        settings: list[Hashable] = []
        for name, module in self.modules.items():
            structure += (name, weakref.ref(type(module)))
            seen_values.within = name
            settings += [
                (attribute, type(value), value)
                if KINDS[type(value)] is None
                else seen_values.attribute(attribute, value)
                for attribute, value in vars(module).items()
                if attribute not in OF_EVERY_MODULE
            ]
        for kind in dict.fromkeys(map(type, self.modules.values())):
            seen_values.within = kind.__qualname__
            settings.append(seen_values.see_class(kind))
        for tensors in (self.parameters, self.buffers):
            for name, t in tensors.items():
                structure += (name, *layout(t))
            if addresses:
                structure += [t.data_ptr() for t in tensors.values()]
        return Signature((*structure, *(seen_values.addresses or ())), tuple(settings), seen_values.unseen)

    def unsupported(self) -> str | None:
        """Why neither a program nor a graph can be built of this model; None: no reason is known."""
        if nn_module._has_any_global_hook():
            return "global module hooks would run only once"
        for name, module in self.modules.items():
            if isinstance(module, torch.jit.ScriptModule):
                return f"{name or 'the model'} is TorchScript, which runs in an interpreter of its own"
            if observes(module):
                return f"the observer of {name or 'the model'} is off during an attack, which a replay would not see to"
            if (
                module._forward_hooks
                or module._forward_pre_hooks
                or module._backward_hooks
                or module._backward_pre_hooks
            ):
                return f"the hooks of {name or 'the model'} would run only once"
        return None

    @property
    def compiled(self) -> bool:
        """Whether a part of the model is compiled by torch.compile."""
        return any(
            "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None
            for module in self.modules.values()
        )

    @contextmanager
    def restored(self) -> Iterator[list[str]]:
        """Undo what a forward does to its modules' attributes; afterwards the list holds their names.

        Contents of a container or an object that a forward changed are named, but stay changed.
        """
        before = [(name, module, dict(vars(module)), dict(module._buffers)) for name, module in self.modules.items()]
        contents = self._contents()
        changed: list[str] = []
        try:
            yield changed
        finally:
            now_contents = self._contents()
            changed += [key for key, then in contents.items() if now_contents.get(key, then) != then]
            for name, module, attributes, buffers in before:
                for then, now in ((attributes, vars(module)), (buffers, module._buffers)):
                    differing = [key for key in {**then, **now} if now.get(key, now) is not then.get(key, before)]
                    changed += [key for key in (f"{name}.{key}".lstrip(".") for key in differing) if key not in changed]
                    if differing:
                        now.clear()
                        now.update(then)

    def _contents(self) -> dict[str, Hashable]:
        """What can change in place, by the names of the attributes that hold it; except for tensors."""
        seen_values = Inspection(self.modules, addresses=True)
        return {
            f"{name}.{attribute}".lstrip("."): seen_values.see(value)
            for name, module in self.modules.items()
            for attribute, value in vars(module).items()
            if attribute not in OF_EVERY_MODULE and not isinstance(value, Tensor)
        }


_FAKE_QUANTIZE = {"observer_enabled", "fake_quant_enabled"}  # the switches of a torch.ao.quantization.FakeQuantize


def observes(module: nn.Module) -> bool:
    """Whether this is a FakeQuantize of torch.ao, which may take note of the images that it is called with."""
    return _FAKE_QUANTIZE.issubset(module._buffers.keys())
