"""The model during an attack: put in the mode that was asked for, frozen, and left as it was found."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fairtat.engines.model.turns import taking_turns

Model = Callable[..., Any]
_PARALLEL = (nn.parallel.DistributedDataParallel, nn.DataParallel)


@dataclass
class ModelState:
    """What one walk over a model's modules has found."""

    model: Model  # unwrapped
    dtype: torch.dtype | None = None  # of its first floating-point parameter
    device: torch.device | None = None
    tracking: list[nn.Module] = field(default_factory=list)  # BatchNorm that updates its statistics
    mixes_samples: bool = False  # BatchNorm that normalises by the batch: a sample's result depends on the others
    settings: list[Hashable] = field(default_factory=list)  # numbers and text among its own classes' attributes

    @contextmanager
    def statistics_held(self) -> Iterator[None]:
        """Forward passes in here use batch statistics where they did before, but write no buffer."""
        try:
            for norm in self.tracking:
                norm.track_running_stats = False  # type: ignore[assignment]
            yield
        finally:
            for norm in self.tracking:
                norm.track_running_stats = True  # type: ignore[assignment]


def unwrap(model: Model) -> Model:
    """The module inside DistributedDataParallel or DataParallel, also where that was compiled as a whole.

    An attack runs many forwards for whose gradients the wrapper's reducer would wait forever.
    """
    while True:
        compiled_from = getattr(model, "_orig_mod", None)  # set by torch.compile
        if isinstance(compiled_from, _PARALLEL):
            model = compiled_from
        elif isinstance(model, _PARALLEL):
            model = model.module
        else:
            return model


@contextmanager
def frozen(model: Model, bn_mode: str) -> Iterator[ModelState]:
    """Freeze the parameters and set each module's mode; undo it all on the way out, exceptions included.

    ``eval``: every module in eval mode. ``train`` and ``train_frozen_stats``: BatchNorm in train mode and all
    else in eval mode, so dropout stays off. A BatchNorm layer in eval mode inside a model in train mode was
    frozen on purpose and stays frozen. ``train_frozen_stats`` normalises by the batch and writes no buffer.
    Of a callable that is not a module nothing is known, and nothing is touched.

    Other threads that freeze the model, or one that shares a layer or a parameter with it, wait meanwhile.
    """
    model = unwrap(model)
    if not isinstance(model, nn.Module):
        yield ModelState(model)
        return
    modules = list(model.modules())
    things = {id(module) for module in modules}
    things.update(id(parameter) for module in modules for parameter in module._parameters.values())
    things.discard(id(None))
    with taking_turns(things), _frozen(modules, bn_mode) as state:
        yield state


@contextmanager
def _frozen(modules: list[nn.Module], bn_mode: str) -> Iterator[ModelState]:
    state = ModelState(modules[0])
    undo: list[tuple[Any, str, bool]] = []

    def assign(owner: Any, name: str, value: bool) -> None:
        undo.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    was_training = getattr(modules[0], "training", False)
    try:
        for module in modules:
            if "_orig_mod" in module._modules:
                continue  # torch.compile's wrapper: its flags are those of the module inside, which comes next
            train = bn_mode != "eval" and isinstance(module, _BatchNorm) and (module.training or not was_training)
            if isinstance(module, _BatchNorm) and (train or module.running_mean is None):
                state.mixes_samples = True
            if bn_mode != "eval" and isinstance(module, torch.jit.ScriptModule):
                _refuse_batch_statistics(module, bn_mode)
            if getattr(module, "training", train) != train:  # what torch.jit.freeze made has no mode any more
                assign(module, "training", train)
            if train and module.track_running_stats:
                if bn_mode == "train":
                    state.tracking.append(module)
                else:
                    assign(module, "track_running_stats", False)
            for parameter in module._parameters.values():
                if parameter is None:
                    continue
                if state.dtype is None and parameter.is_floating_point():
                    state.dtype, state.device = parameter.dtype, parameter.device
                if parameter.requires_grad and parameter.is_leaf:
                    assign(parameter, "requires_grad", False)
            if not type(module).__module__.startswith("torch.nn."):
                values = vars(module).items()
                state.settings += [(name, value) for name, value in values if isinstance(value, (int, float, str))]
        yield state
    finally:
        for owner, name, value in undo:
            if getattr(owner, name) != value:  # not so where the assignment was what failed
                setattr(owner, name, value)


def _refuse_batch_statistics(module: torch.jit.ScriptModule, bn_mode: str) -> None:
    """Raise ValueError where a mode may have been compiled in: in BatchNorm, and in anything that was frozen."""
    if "BatchNorm" in module.original_name or not hasattr(module, "training"):
        raise ValueError(
            f"bn_mode={bn_mode!r} cannot reach BatchNorm inside TorchScript; use bn_mode='eval', or the module that "
            "the TorchScript was made from"
        )
