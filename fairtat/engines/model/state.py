"""The model during an attack: put in the mode that was asked for, frozen, and left as it was found."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fairtat.engines.model.glance import Glance, Unclear
from fairtat.engines.model.structure import observes
from fairtat.engines.model.turns import taking_turns

Model = Callable[..., Any]
_Assignment = tuple[Any, str, bool]  # owner, attribute, value
MAX_MISSES = 4  # glances in a row that found another model, before it is always looked at thoroughly
_PARALLEL = (nn.parallel.DistributedDataParallel, nn.DataParallel)


@dataclass
class ModelState:
    """What is known of a model under attack, and its freezing, which can wait until the model is called."""

    model: Model  # unwrapped
    dtype: torch.dtype | None = None  # of its first floating-point parameter
    device: torch.device | None = None
    tracking: list[nn.Module] = field(default_factory=list)  # BatchNorm that updates its statistics
    mixes_samples: bool = False  # BatchNorm that normalizes by the batch: a sample's result depends on the others
    settings: list[Hashable] = field(default_factory=list)  # numbers and text among its own classes' attributes
    # What engines have found out about the model as it is since its last call in this attack, by their names.
    looks: dict[str, Any] | None = None
    bn_mode: str = "eval"
    called: bool = False  # the model has been called in this attack, so it is frozen
    _assignments: list[_Assignment] | None = field(default_factory=list)  # None: not worked out
    _undo: list[_Assignment] = field(default_factory=list)

    def freeze(self) -> None:
        """Freeze the parameters and set each module's mode, if that has not been done."""
        if self._assignments is None:
            self._assignments = _survey(list(self.model.modules()), self.bn_mode)._assignments  # type: ignore[attr-defined]
        for owner, name, value in self._assignments or ():
            if getattr(owner, name) != value:  # a parameter that two modules share comes twice
                self._undo.append((owner, name, getattr(owner, name)))
                setattr(owner, name, value)
        self._assignments = []

    def before_call(self) -> None:
        """The model is about to be called, which may change it."""
        self.freeze()
        self.looks, self.called = {}, True

    def thaw(self) -> None:
        """Undo it."""
        for owner, name, value in self._undo:
            if getattr(owner, name) != value:  # not so where the assignment was what failed
                setattr(owner, name, value)

    @contextmanager
    def statistics_held(self) -> Iterator[None]:
        """Forward passes in here use batch statistics where they did before, but write no buffer."""
        self.freeze()
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
def frozen(model: Model, bn_mode: str, *, lazy: bool = False) -> Iterator[ModelState]:
    """Freeze the parameters and set each module's mode; undo it all on the way out, exceptions included.

    ``eval``: every module in eval mode. ``train`` and ``train_frozen_stats``: BatchNorm in train mode and all
    else in eval mode, so dropout stays off. A BatchNorm layer in eval mode inside a model in train mode was
    frozen on purpose and stays frozen. ``train_frozen_stats`` normalizes by the batch and writes no buffer.
    Observers of fake quantization are off in every mode.
    Of a callable that is not a module nothing is known, and nothing is touched.

    ``lazy``: not before `Network` calls the model, which a replay does not do.

    Other threads that freeze the model, or one that shares a layer or a parameter with it, wait meanwhile.
    """
    model = unwrap(model)
    if not isinstance(model, nn.Module):
        yield ModelState(model)
        return
    known = _KNOWN.setdefault(model, {}).get(bn_mode)
    if known is not None and known.glance is not None:
        with taking_turns(known.things):
            seen = known.again(model, bn_mode)
            if seen is not None:
                with _undone(seen, lazy):
                    yield seen
                return
    modules = list(model.modules())
    things = {id(module) for module in modules}
    things.update(id(parameter) for module in modules for parameter in module._parameters.values())
    things.discard(id(None))
    with taking_turns(things):
        state = _survey(modules, bn_mode)
        state.looks = _remember(modules, state, frozenset(things), known)
        with _undone(state, lazy):
            yield state


@contextmanager
def _undone(state: ModelState, lazy: bool) -> Iterator[None]:
    try:
        if not lazy:
            state.before_call()
        yield
    finally:
        state.thaw()


def _survey(modules: list[nn.Module], bn_mode: str) -> ModelState:
    """What a walk over the modules finds, and what freezing has to set."""
    state, assignments = ModelState(modules[0], bn_mode=bn_mode), list[_Assignment]()
    was_training = getattr(modules[0], "training", False)
    for module in modules:
        if "_orig_mod" in module._modules:
            continue  # torch.compile's wrapper: its flags are those of the module inside, which comes next
        train = bn_mode != "eval" and isinstance(module, _BatchNorm) and (module.training or not was_training)
        if isinstance(module, _BatchNorm) and (train or module.running_mean is None):
            state.mixes_samples = True
        if bn_mode != "eval" and isinstance(module, torch.jit.ScriptModule):
            _refuse_batch_statistics(module, bn_mode)
        if isinstance(module, torch.fx.GraphModule):
            _refuse_exported(module, bn_mode)
        if observes(module):  # an attack's images are none to choose a range by
            assignments.append((_Observer(module), "enabled", False))
        if getattr(module, "training", train) != train:  # what torch.jit.freeze made has no mode any more
            assignments.append((module, "training", train))
        if train and module.track_running_stats:
            if bn_mode == "train":
                state.tracking.append(module)
            else:
                assignments.append((module, "track_running_stats", False))
        for parameter in module._parameters.values():
            if parameter is None:
                continue
            if state.dtype is None and parameter.is_floating_point():
                state.dtype, state.device = parameter.dtype, parameter.device
            if parameter.requires_grad and parameter.is_leaf:
                assignments.append((parameter, "requires_grad", False))
        if not type(module).__module__.startswith("torch.nn."):
            values = vars(module).items()
            state.settings += [(name, value) for name, value in values if isinstance(value, (int, float, str))]
    state._assignments = assignments
    return state


@dataclass
class _Known:
    """What an attack found of a model, for the next one, if a glance shows the same model."""

    things: frozenset[int]  # that its attacks take turns over
    glance: Glance | None
    misses: int  # in a row
    state: tuple[Any, ...]  # dtype, device, mixes_samples, settings
    tracking: list[int]  # indices of modules
    looks: dict[str, Any] = field(default_factory=dict)

    def again(self, model: nn.Module, bn_mode: str) -> ModelState | None:
        """The state, if the model is what it was, without a walk over it."""
        modules = None if self.glance is None else self.glance.same()
        if modules is None:
            return None
        self.misses = 0
        dtype, device, mixes, settings = self.state
        tracking = [modules[i] for i in self.tracking]
        return ModelState(model, dtype, device, tracking, mixes, settings, self.looks, bn_mode, _assignments=None)


_KNOWN: WeakKeyDictionary[nn.Module, dict[str, _Known]] = WeakKeyDictionary()


def _remember(
    modules: list[nn.Module], state: ModelState, things: frozenset[int], before: _Known | None
) -> dict[str, Any]:
    """Where engines keep what they find; with a glance at the model, if they kept something in the last attack."""
    misses = 0 if before is None else before.misses + (before.glance is not None)
    glance = None
    if before is not None and before.looks and misses <= MAX_MISSES:
        try:
            glance = Glance(modules)
        except Unclear:
            misses = MAX_MISSES + 1
    tracking = [i for i, module in enumerate(modules) if any(module is norm for norm in state.tracking)]
    kept = (state.dtype, state.device, state.mixes_samples, state.settings)
    known = _KNOWN[modules[0]][state.bn_mode] = _Known(things, glance, misses, kept, tracking)
    return known.looks


@dataclass
class _Observer:
    """The switch of a FakeQuantize's observer, a number in a buffer."""

    module: nn.Module

    @property
    def enabled(self) -> bool:
        return bool(self.module._buffers["observer_enabled"].any())  # type: ignore[union-attr]

    @enabled.setter
    def enabled(self, value: bool) -> None:
        self.module._buffers["observer_enabled"].fill_(value)  # type: ignore[union-attr]


def _refuse_exported(module: torch.fx.GraphModule, bn_mode: str) -> None:
    """Raise ValueError where `torch.export` has written another mode into a graph's BatchNorm than is asked for."""
    for node in module.graph.nodes:
        if node.op != "call_function" or not re.match(r"aten\.\w*batch_norm\w*\.", str(node.target)):
            continue
        if len(node.args) > 5 and node.args[5] is True:
            raise ValueError(
                f"bn_mode={bn_mode!r} cannot reach BatchNorm inside what torch.export made of a module in train mode; "
                "export the module in eval mode, or attack the module itself"
            )
        if bn_mode != "eval":
            raise ValueError(
                f"bn_mode={bn_mode!r} cannot reach BatchNorm inside what torch.export made; use bn_mode='eval', or the "
                "module that was exported"
            )


def _refuse_batch_statistics(module: torch.jit.ScriptModule, bn_mode: str) -> None:
    """Raise ValueError where a mode may have been compiled in: in BatchNorm, and in anything that was frozen."""
    if "BatchNorm" in module.original_name or not hasattr(module, "training"):
        raise ValueError(
            f"bn_mode={bn_mode!r} cannot reach BatchNorm inside TorchScript; use bn_mode='eval', or the module that "
            "the TorchScript was made from"
        )
