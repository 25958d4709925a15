"""The compiled engine: steps as graphs of their own, traced once a shape, compiled by inductor, without autograd.

It serves modules whose forward is the same computation every time: what the forward decides in Python, beyond settings
that are attributes of its modules, is decided when it is traced. The rest runs on the eager engine, with a warning.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Hashable
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module

from fairtat.attacks.batch import Batch
from fairtat.attacks.compiled_cache import Anatomy, Family, record_of
from fairtat.attacks.engine_eager import Eager
from fairtat.attacks.network import Network
from fairtat.attacks.options import AttackOptions
from fairtat.attacks.passes import Attack, Pass, take
from fairtat.attacks.result import AttackResult

_LOG = logging.getLogger("fairtat")


class EngineFallback(UserWarning):
    """The engine that was asked for cannot serve a model or an option, so the eager engine does."""


def run(network: Network, batch: Batch, options: AttackOptions, seed: int) -> Tensor | AttackResult:
    """Attack a batch; see :func:`fairtat.fast_targeted_pgd`."""
    attack = Attack(network, batch, options, seed)
    engine = _Compiled(attack)
    result = attack.run(engine.descend)
    # Only now: had the eager engine failed as well, its error would have been the message.
    if engine.unfit is not None:
        _warn_once(engine.model, engine.unfit)
    return result


class _Compiled:
    def __init__(self, attack: Attack) -> None:
        self.attack = attack
        self.network = attack.network
        self.options = attack.options
        # What torch.compile wraps is compiled here in another way.
        self.model = getattr(attack.network.model, "_orig_mod", attack.network.model)
        self.unfit: str | None = None
        self._eager = Eager(attack)

    def descend(self, work: Pass) -> AttackResult | None:
        """Run the steps of one pass, in place."""
        steps = self.options.steps
        if steps == 0 or not self._run_compiled(work):
            return self._eager.descend(work)
        return self._eager.finish(work, steps)

    def _run_compiled(self, work: Pass) -> bool:
        """Whether the steps were made; if not, nothing was touched."""
        if self.options.early_stop:
            self.unfit = "with early_stop the batch shrinks from step to step"
        elif not isinstance(self.model, nn.Module):
            self.unfit = f"the model is no torch.nn.Module but a {type(self.model).__name__}, with weights out of sight"
        if self.unfit is not None:
            return False
        model, tensors = self.model, self._tensors(work)
        assert isinstance(model, nn.Module)
        anatomy = Anatomy.of(model)
        self.unfit = _hooks(anatomy)
        if self.unfit is not None:
            return False
        family = record_of(model).family(self._settings(tensors), anatomy.signature())
        n = len(work.x)
        size = None if family.unfit else family.size_for(n)
        if size is not None and size not in family.programs:
            self._build(family, model, anatomy, tensors)
        self.unfit = family.unfit
        # Padding would change batch statistics.
        if self.unfit is not None or size is None or (size != n and self.options.bn_mode != "eval"):
            return False
        program = family.programs[size]
        self.attack.batch.check_classes(work.x.new_empty(0, program.classes), self.options)
        at_work = work if size == n else _padded(work, size)
        inputs = list((tensors if at_work is work else self._tensors(at_work)).values())
        buffers = list(anatomy.buffers.values())
        # The graph holds the casts of autocast; around it, they would be made a second time.
        with torch.no_grad(), torch.autocast(work.x.device.type, enabled=False):
            prepared = program.prepare(list(anatomy.parameters.values()))
            for _ in range(self.options.steps // program.steps):
                program.run(inputs, prepared, buffers)
        if at_work is not work:
            _copy_back(at_work, work)
        return True

    def _build(self, family: Family, model: nn.Module, anatomy: Anatomy, tensors: dict[str, Tensor]) -> None:
        """Add a program for these tensors to the family, or the reason why there can be none."""
        # Tracing and inductor take seconds to import, which others need not wait for.
        from fairtat.attacks.compiled_program import build

        size, name = len(tensors["x"]), type(model).__name__
        _LOG.info("engine 'compiled': tracing and compiling %s for %d images", name, size)
        try:
            program = build(model, anatomy, self.network.state, self.attack.batch, self.options, tensors)
        except Exception as error:  # whatever a model or a compiler may raise
            _LOG.debug("engine 'compiled' cannot serve this model", exc_info=True)
            reason = str(error).strip().partition("\n")[0]
            family.unfit = f"the model cannot be traced and compiled ({type(error).__name__}: {reason})"
            return
        _LOG.info(
            "engine 'compiled': built in %.1f s; %d operations a step, %d steps a graph",
            program.seconds, program.nodes, program.steps,
        )  # fmt: skip
        family.add(size, program)

    def _tensors(self, work: Pass) -> dict[str, Tensor]:
        """What a program takes beside the model's own tensors, by the names of compiled_program.StepTensors."""
        b = self.attack.batch
        given = {
            "x_adv": work.x_adv,
            "model_input": work.separate_input,
            "zero_grad": work.zero_grad,
            "x": work.x,
            "goal": work.goal,
            "eps": work.x.new_full((len(work.x),), b.eps) if work.eps_n is None else work.eps_n,
            "step": work.x.new_full((len(work.x),), b.step) if work.step_n is None else work.step_n,
            "y": work.y,
            "clean_logits": work.clean_logits,
            "mean": b.mean,
            "std": b.std,
        }
        return {name: tensor for name, tensor in given.items() if tensor is not None}

    def _settings(self, tensors: dict[str, Tensor]) -> Hashable:
        """All but the model and the size of the batch that a program depends on."""
        o, device = self.options, tensors["x"].device
        shapes = tuple((name, t.dtype, t.shape[1:], t.stride()[1:]) for name, t in tensors.items())
        autocast = torch.is_autocast_enabled(device.type) and torch.get_autocast_dtype(device.type)
        options = (o.targeted, o.norm, o.loss, o.steps, o.amp, o.bn_mode, *map(float, o.bounds))
        # Inductor writes the number of threads into its kernels.
        return options, shapes, device, autocast, self.network.input_dtype, torch.get_num_threads()


def _hooks(anatomy: Anatomy) -> str | None:
    """An objection to a model that has hooks."""
    if nn_module._has_any_global_hook():
        return "global module hooks would run only once, while tracing"
    for name, module in anatomy.modules.items():
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
            return f"the hooks of {name or 'the model'} would run only once, while tracing"
    return None


def _padded(work: Pass, size: int) -> Pass:
    """The pass with its last sample repeated until there are ``size``."""
    index = torch.arange(size, device=work.x.device).clamp_(max=len(work.x) - 1)
    tensors: dict[str, Any] = {f.name: getattr(work, f.name) for f in fields(work)}
    return replace(work, **{name: take(t, index) for name, t in tensors.items() if t is not None})


def _copy_back(padded: Pass, work: Pass) -> None:
    n = len(work.x)
    for name in ("x_adv", "separate_input", "zero_grad"):
        tensor = getattr(work, name)
        if tensor is not None:
            tensor.copy_(getattr(padded, name)[:n])


def _warn_once(model: object, reason: str) -> None:
    if isinstance(model, nn.Module):
        warned = record_of(model).warned
        if reason in warned:
            return
        warned.add(reason)
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and str(frame.f_globals.get("__name__")).partition(".")[0] == "fairtat":
        level, frame = level + 1, frame.f_back
    warnings.warn(f"engine='compiled' gives way to 'eager': {reason}", EngineFallback, stacklevel=level)
