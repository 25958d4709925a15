"""The compiled engine: steps as graphs of their own, traced once a shape, compiled by inductor, without autograd.

It serves modules whose forward is the same computation every time: what the forward decides in Python, beyond settings
that are attributes of its modules, is decided when it is traced. The rest runs on the eager engine, with a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fairtat.attacks.anatomy import Anatomy
from fairtat.attacks.batch import Batch
from fairtat.attacks.engine_cache import Family, Record, building, record_of
from fairtat.attacks.engine_check import CHANGES, MISMATCH, FirstPass, Probe
from fairtat.attacks.engine_eager import Eager
from fairtat.attacks.fallback import warn_once
from fairtat.attacks.network import Network
from fairtat.attacks.options import AttackOptions
from fairtat.attacks.passes import Attack, Pass, Span, take
from fairtat.attacks.result import AttackResult

if TYPE_CHECKING:
    from fairtat.attacks.compiled_program import Program

_LOG = logging.getLogger("fairtat")


def run(network: Network, batch: Batch, options: AttackOptions, seed: int) -> Tensor | AttackResult:
    """Attack a batch; see :func:`fairtat.fast_targeted_pgd`."""
    attack = Attack(network, batch, options, seed)
    engine = _Compiled(attack)
    result = attack.run(engine.descend)
    # Only now: had the eager engine failed as well, its error would have been the message.
    if engine.unfit is not None:
        warn_once("compiled", engine.model, engine.unfit)
    return result


class _Compiled:
    def __init__(self, attack: Attack) -> None:
        self.attack = attack
        self.network = attack.network
        self.options = attack.options
        # What torch.compile wraps is compiled here in another way.
        self.model = getattr(attack.network.model, "_orig_mod", attack.network.model)
        self.unfit: str | None = None
        self.made = False  # all steps, in the last pass
        self._eager = Eager(attack)

    def descend(self, spans: Sequence[Span], room: Tensor | None) -> AttackResult | None:
        """Attack the samples of these spans."""
        if self.options.steps > 0 and self.options.early_stop:
            self.unfit = "with early_stop the batch shrinks from step to step"
        if self.options.steps == 0 or self.options.early_stop:
            return self._eager.descend(spans, room)
        work = self._run_compiled(partial(self.attack.begin, spans, room))
        return self._eager.finish(work) if self.made else self._eager.staying(work)

    def _run_compiled(self, start: Callable[[], Pass]) -> Pass:
        """The samples that ``start`` gives, after all steps if these were ``made``, else at their start."""
        self.made = False
        work = start()
        if not isinstance(self.model, nn.Module):
            self.unfit = f"the model is no torch.nn.Module but a {type(self.model).__name__}, with weights out of sight"
        if self.unfit is not None:
            return work
        model, tensors = self.model, self._tensors(work)
        assert isinstance(model, nn.Module)
        anatomy = Anatomy.of(model)
        self.unfit = anatomy.objection()
        if self.unfit is not None:
            return work
        record: Record[Program] = record_of(model, "compiled")
        settings, signature = self._settings(tensors), anatomy.signature()
        family = record.family(settings, signature, self.options.engine_check)
        n = len(work.x)
        size = None if family.unfit else family.size_for(n)
        while size is not None:
            built = size not in family.programs
            if built:
                self._build(family, model, anatomy, tensors)
            # Padding would change batch statistics.
            if family.unfit is not None or (size != n and self.network.state.mixes_samples):
                break
            program = family.programs[size] if built else family.use(size)
            doubted = family.doubted(size, self.options.engine_check)
            work = self._steps(program, size, anatomy, work, start if doubted else None)
            if self.made:
                family.confirmed.add(size)
                return work
            # What was made of the model is no longer right, or never was.
            if built:
                family.unfit = MISMATCH
            else:
                family = record.anew(settings, signature, CHANGES)
        self.unfit = family.unfit
        return work

    def _steps(
        self, program: Program, size: int, anatomy: Anatomy, work: Pass, doubted: Callable[[], Pass] | None
    ) -> Pass:
        """The same with this program; ``doubted``: if its first pass is the model's, what starts again if it is not."""
        self.attack.batch.check_classes(work.x.new_empty(0, program.classes), self.options)
        runs = self.options.steps // program.steps
        if doubted is not None:
            eager = FirstPass(self._eager, work, doubted, anatomy.buffers.values())
            confirmed = eager.confirms(self._advance(program, size, anatomy, work, 1))
            if not confirmed:
                work = doubted()
            if confirmed is False:
                return work
            runs -= bool(confirmed)
        if runs:
            self._advance(program, size, anatomy, work, runs)
        self.made = True
        return work

    def _advance(self, program: Program, size: int, anatomy: Anatomy, work: Pass, runs: int) -> Probe:
        """Run a program some times, and return what it found at first."""
        at_work = work if size == len(work.x) else _padded(work, size)
        inputs, buffers = list(self._tensors(at_work).values()), list(anatomy.buffers.values())
        # The graph holds the casts of autocast; around it, they would be made a second time.
        with torch.no_grad(), torch.autocast(work.x.device.type, enabled=False):
            prepared = program.prepare(list(anatomy.parameters.values()))
            first, *_ = [program.run(inputs, prepared, buffers) for _ in range(runs)]
        if at_work is not work:
            _copy_back(at_work, work)
        return first

    def _build(self, family: Family[Program], model: nn.Module, anatomy: Anatomy, tensors: dict[str, Tensor]) -> None:
        """Add a program for these tensors to the family, or the reason why there can be none."""
        # Tracing and inductor take seconds to import, which others need not wait for.
        from fairtat.attacks.compiled_program import build

        size, name = len(tensors["x"]), type(model).__name__
        _LOG.info("engine 'compiled': tracing and compiling %s for %d images", name, size)
        try:
            with building():
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
