"""fast_targeted_pgd, fast_pgd and TargetedPGD: ways to call one attack, in which each sample may have its direction."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from typing import Any, Literal, ParamSpec, TypeVar, overload

import torch
from torch import Tensor
from typing_extensions import Unpack

from fairtat import engines
from fairtat.attacks.batch import make_batch
from fairtat.attacks.entry import check_call, check_may_stop_early
from fairtat.attacks.options import (
    ForEither,
    ForImages,
    ForResult,
    PGDCallKeywords,
    PGDKeywords,
    PGDOptions,
    shows_pgd_options,
)
from fairtat.attacks.pgd_steps import PGDSteps
from fairtat.attacks.result import AttackResult
from fairtat.engines.model.network import Network
from fairtat.engines.model.random_numbers import own_random_numbers
from fairtat.engines.model.state import Model, frozen

__all__ = ["TargetedPGD", "fast_pgd", "fast_targeted_pgd"]

P = ParamSpec("P")
R = TypeVar("R")


@overload
def fast_targeted_pgd(
    model: Model, x: Tensor, target: Tensor, *, y: Tensor | None = None, **options: Unpack[ForResult]
) -> AttackResult: ...
@overload
def fast_targeted_pgd(
    model: Model, x: Tensor, target: Tensor, *, y: Tensor | None = None, **options: Unpack[ForImages]
) -> Tensor: ...
@overload
def fast_targeted_pgd(
    model: Model, x: Tensor, target: Tensor, *, y: Tensor | None = None, **options: Unpack[ForEither]
) -> Tensor | AttackResult: ...
@shows_pgd_options
def fast_targeted_pgd(
    model: Model,
    x: Tensor,  # (N, ...)
    target: Tensor,  # (N,)
    *,
    y: Tensor | None = None,  # (N,)
    sample_ids: Tensor | None = None,  # (N,)
    **options: Any,  # as PGDOptions
) -> Tensor | AttackResult:
    """Move a batch of images towards target classes by projected gradient descent.

    From a start in the eps-ball B(x), ``steps`` times, with J the loss towards the target t::

        x_adv <- project(x_adv - step_size * sign(dJ(f(x_adv), t) / dx_adv))        on B(x) and the bounds

    in Linf; in L2 the sign becomes ``g / (||g|| + 1e-12)``, and in L1 the signs of the largest gradients over their
    number. J is a sum over the batch, never a mean.

    Equivalent to::

        x_adv = (x + eps * u).clamp(0, 1)                      # u: uniform in [-1, 1)
        for _ in range(steps):
            x_adv.requires_grad_()
            loss = F.cross_entropy(model(x_adv), target, reduction="sum")
            grad, = torch.autograd.grad(loss, x_adv)
            x_adv = x_adv.detach() - step_size * grad.sign()
            x_adv = x_adv.clamp(x - eps, x + eps).clamp(0, 1)

    The model is left as it was found, even after an exception: mode of each module, ``requires_grad`` and
    ``.grad`` of each parameter, BatchNorm buffers (except with ``bn_mode="train"``), random number state. If the
    model is wrapped in DistributedDataParallel or DataParallel, the module inside is attacked. A model with random
    layers of its own draws from a stream seeded by ``seed``.

    Threads: attacks on models that share a layer or a parameter take turns; others run side by side. Another thread
    may train or call the model only between attacks. If the model draws no random numbers, no PyTorch generator is
    touched. Attacks on models that draw take turns, and other threads that draw from the default generators meanwhile
    get numbers from the attack's stream. The first attack finds out whether a model draws, and so does the next one
    after a number or text among its modules' attributes has changed. A model that begins to draw for other reasons,
    while other threads run, is seeded from the next attack on, or later if those threads draw as well.

    Args:
        model: A module, or any callable, from images (N, ...) to logits (N, C), to an object with ``.logits``,
            or to a dict with "logits".
        x: Images (N, ...) in ``bounds``, float32 or float64, rank 2 or more, in any layout (one that is not dense
            with the batch outermost is copied once). Never changed: a model that overwrites its input is detected
            and given copies.
        target: Classes (N,) to move towards, an integer dtype.
        y: True labels (N,). They are checked to differ from ``target``; required by ``loss="dlr"``, otherwise unused.
        sample_ids: Integers (N,), default ``arange(N)``. A sample's start depends only on (seed, id, restart): with
            dataset indices it depends on neither batch, chunk nor rank.
        eps: Radius in pixel units (those of ``bounds``), a number or (N,).
        step_size: Step in pixel units, a number or (N,).
        steps: Gradient steps; 0 returns the start.
        step_schedule: Factors (steps,), at least 0, a sequence or a floating-point tensor: step k has the size
            ``step_size * step_schedule[k]``, so that sizes may differ by step and by sample.
        momentum: At least 0. If it is not 0, a step goes along the velocity ``v <- momentum * v + g / ||g||_1``, which
            starts at 0, in the place of the gradient g (MI-FGSM).
        norm: "linf", "l2" or "l1". In L1 there is no random start (``init="zero"``, or a tensor); the step runs on the
            compiled CPU kernels or in plain PyTorch.
        density: In L1, the share of an image's elements that a step moves, in (0, 1].
        loss: "ce", "margin" (largest other logit minus the target's, C >= 2), "dlr" (targeted, C >= 4), or a function:
            it takes logits (N, C) and goals (N,), of the samples of a pass, and returns losses (N,) that are large far
            from the goal, each from its own sample's logits. Its gradient is autograd's, and the engine the eager one.
        eot: Passes of the model for a step, which goes along their mean gradient: for models that draw random numbers.
            The first pass decides what stops; with ``bn_mode="train"`` it alone updates statistics. Above 1, the engine
            is the eager one.
        init: "uniform" in the ball, "normal" (standard deviation 1e-3, as in TRADES), "zero" (x itself), or the
            starting x_adv, shaped like x, which is first projected on the ball and the bounds.
        bounds: (low, high) of a valid pixel.
        normalize: (mean, std) of dimension 1, a number or (C,) each, for a model that takes ``(x - mean) / std``: the
            step kernel writes that input, and images and radii stay in pixel units.
        bn_mode: "eval": the whole model in eval mode. "train": BatchNorm in train mode; every step updates its
            running statistics (as the published FAIR-TAT and CFA code). "train_frozen_stats": batch statistics,
            but buffers stay as they are. In the last two modes all other layers are in eval mode, BatchNorm that was
            frozen by hand (eval inside a model in train mode) stays frozen, and a sample's result depends on its
            batch or chunk.
        restarts: Number of starts per sample, folded into the batch. The start that is kept: one that reached its
            target before one that did not, then the smaller loss, then the earlier start. With ``early_stop``,
            restarts run one after another, each only for the samples that are not at their target yet, so the first
            start to reach it is kept.
        early_stop: A sample whose prediction is its target stops moving and leaves the batch. In the two
            BatchNorm train modes it stays, unmoved, so that batch statistics do not change.
        extra_steps: With ``early_stop``, the number of steps that a sample makes even if it is at its goal: each such
            step uses one up, and at its goal with none left the sample stops (friendly adversarial training's tau).
        amp: None, torch.bfloat16 or torch.float16: autocast around the model. x_adv and the step stay in the
            images' dtype. float16 gradients are scaled by a power of two.
        seed: An int in [-2**63, 2**64) makes the attack repeatable. None derives one from ``torch.initial_seed()``
            and the number of such calls since it last changed; nothing is drawn from PyTorch's generators.
        backend: Kernels: "auto" or a name from :data:`fairtat.backends.BACKENDS`.
        engine: "eager": PyTorch's passes of the model, step by step. "compiled": each step as one graph, traced once
            per shape, compiled by inductor (half a minute for a ResNet, once; the results are kept on disk) and run
            without autograd. Weights may change between calls. A smaller last batch is padded or runs eagerly. With
            early_stop a sample that has stopped stays in the batch, unmoved, until all have. What cannot be traced
            (Python decisions that depend on data, hooks, callables that are not modules) runs eagerly with one
            :class:`EngineFallback` warning.
            "graph": the steps captured once per shape as CUDA graphs and replayed, so the host has nothing to
            do; equal to "eager" to the last bit in Linf. Weights may change in place between calls; if they move, a
            new capture is made. A compiled model is captured with its own kernels, a smaller last batch is padded or
            runs eagerly, and with early_stop the batch shrinks to halves, quarters and eighths. Graphs are kept with
            the model, the last few shapes for each set of options, and are freed with it. What cannot be captured
            (hooks, random numbers, decisions that read from the device, callables that are not modules, SyncBatchNorm
            in train mode, a CPU) runs eagerly with one :class:`EngineFallback` warning.
            "compiled_graph": the program of "compiled", captured and replayed as "graph" does, for models that
            both of them serve, on a GPU.
            "auto": on a GPU, "graph" for a shape that comes twice in a row, without early_stop and chunk_size. On a
            CPU, "eager" until passes of one size with the same options have taken four times as long as a build is
            expected to take, then "compiled", unless that turns out no faster; the log says so. An attack is one
            engine's from beginning to end, but a later call may differ from an earlier one by rounding: name an engine
            where the same call must give the same bits, or call ``torch.use_deterministic_algorithms(True)``, which
            keeps "auto" eager. It never warns.
        engine_check: When an engine's program or graph is compared with the model before its result counts. The
            model is compared with what the program was made from before every call (0.2 ms for a ResNet-18): layers,
            shapes, each module's attributes with all that they hold (containers, objects, functions) and the code of
            its class. If that has changed, a new program is made; if it changes at every call, as a log does, checks
            are made instead. A check compares logits and gradient of the attack's first pass with those of "eager". It
            costs that pass, a synchronization on a GPU, and another pass and some steps where rounding has to be told
            from a change (low precision). If they differ, a new program is made; if that one differs too, the attack
            runs eagerly with one :class:`EngineFallback` warning.
            "first": a check in the first call after each build, and in every call of a model with attributes that
            cannot be inspected (arrays over 4 kB, objects of extensions). "always": in every call. "off": never.
            Only "always" sees a change in what a forward reads from outside its modules: global variables, containers
            and objects in a function's closure, functions of other modules, files.
        chunk_size: The most images in one pass of the model, restarts counted; None means all at once.
        watch: A function that is called before each step k = 0, ..., steps - 1 with k, x_adv (N, ...) as it is then,
            which the step overwrites, and the model's logits for it (N, C); it may keep clones, and change nothing. A
            call with k = 0 begins anew: a model that overwrites its input is given copies from a second start on.
            It needs one restart, no early_stop and no chunk_size; the engine is the eager one.
        check: False skips the checks of values (on a GPU: one synchronization), not those of shapes and types.
        return_info: Return an :class:`AttackResult`, at the cost of one more forward pass.

    Returns:
        x_adv with the shape and dtype of x, in the bounds and with ``|x_adv - x| <= eps`` up to one rounding;
        with ``return_info=True`` an :class:`AttackResult`.

    Raises:
        ValueError: a value, shape or device that is not valid, ``target == y``, or fewer classes than the loss
            needs. The message names the argument, what was given and what was expected.
        TypeError: the same for a wrong type or dtype, and for a model output without logits.
        RuntimeError: inside ``torch.inference_mode()``, or if the model's output has no gradient.

    Source: Madry et al. 2018, arXiv:1706.06083; Dong et al. 2018 (momentum), arXiv:1710.06081; Tramer
    & Boneh 2019 and Croce & Hein 2021 (L1), arXiv:1904.13000, arXiv:2103.01208; targets as in FAIR-TAT,
    Medi, Jung & Keuper 2025, arXiv:2410.23142.
    """
    return attack(model, x, target, None, options, y=y, sample_ids=sample_ids)


@overload
def fast_pgd(
    model: Model, x: Tensor, y: Tensor, *, clean_logits: Tensor | None = None, **options: Unpack[ForResult]
) -> AttackResult: ...
@overload
def fast_pgd(
    model: Model, x: Tensor, y: Tensor, *, clean_logits: Tensor | None = None, **options: Unpack[ForImages]
) -> Tensor: ...
@overload
def fast_pgd(
    model: Model, x: Tensor, y: Tensor, *, clean_logits: Tensor | None = None, **options: Unpack[ForEither]
) -> Tensor | AttackResult: ...
@shows_pgd_options
def fast_pgd(
    model: Model,
    x: Tensor,  # (N, ...)
    y: Tensor,  # (N,)
    *,
    clean_logits: Tensor | None = None,  # (N, C)
    sample_ids: Tensor | None = None,  # (N,)
    **options: Any,  # as PGDOptions
) -> Tensor | AttackResult:
    """Move a batch of images away from their labels by projected gradient ascent (untargeted PGD).

    The same attack as :func:`fast_targeted_pgd` with the other sign, J the loss of the label y::

        x_adv <- project(x_adv + step_size * sign(dJ(f(x_adv), y) / dx_adv))        on B(x) and the bounds

    Args:
        model: As in :func:`fast_targeted_pgd`, like all arguments that are not listed here.
        x: Images (N, ...) in ``bounds``.
        y: True labels (N,), an integer dtype.
        clean_logits: The model's logits or log-probabilities for x, (N, C); only with ``loss="kl"``.
        loss: "ce", "margin" (C >= 2), "dlr" (C >= 3), or "kl": KL(softmax(clean_logits) || softmax(f(x_adv))), the
            inner maximization of TRADES (which starts from ``init="normal"``: at x itself its gradient is zero).
        restarts: The start that is kept: one that fooled the model before one that did not, then the larger loss.
        early_stop: A sample stops once it is misclassified, or ``extra_steps`` such steps later.

    Returns:
        x_adv like x; with ``return_info=True`` an :class:`AttackResult` whose ``reached`` means ``pred != y``.

    Raises:
        ValueError, TypeError, RuntimeError: as :func:`fast_targeted_pgd`.

    Source: Madry et al. 2018, arXiv:1706.06083; Zhang et al. 2019 (TRADES), arXiv:1901.08573; ``early_stop`` and
    ``extra_steps``: Zhang et al. 2020 (friendly adversarial training), arXiv:2002.11242.
    """
    return attack(model, x, y, None, options, targeted=False, clean_logits=clean_logits, sample_ids=sample_ids)


class TargetedPGD:
    """:func:`fast_targeted_pgd` with its model and options fixed in advance, and checked once.

    ``TargetedPGD(model, eps=4/255, steps=20)(x, target)``. Options given to a call count for that call alone:
    ``attack(x, target, y, eps=fair.eps_for(y), sample_ids=index)``. What an engine builds or captures is kept with the
    model, so this object and the functions share it.
    """

    def __init__(self, model: Model, *, return_info: bool = False, **options: Unpack[PGDKeywords]) -> None:
        self.model = model
        self.options = PGDOptions.named({**options, "return_info": return_info}, targeted=True)

    @overload
    def __call__(
        self, x: Tensor, target: Tensor, y: Tensor | None = None, **options: Unpack[ForResult]
    ) -> AttackResult: ...
    @overload
    def __call__(
        self,
        x: Tensor,
        target: Tensor,
        y: Tensor | None = None,
        *,
        return_info: Literal[False],
        **options: Unpack[PGDCallKeywords],
    ) -> Tensor: ...
    @overload
    def __call__(
        self, x: Tensor, target: Tensor, y: Tensor | None = None, **options: Unpack[ForEither]
    ) -> Tensor | AttackResult: ...
    def __call__(
        self,
        x: Tensor,  # (N, ...)
        target: Tensor,  # (N,)
        y: Tensor | None = None,  # (N,)
        *,
        sample_ids: Tensor | None = None,  # (N,)
        **options: Any,
    ) -> Tensor | AttackResult:
        """Attack one batch; arguments, result and errors as :func:`fast_targeted_pgd`."""
        return attack(self.model, x, target, self.options, options, y=y, sample_ids=sample_ids)


def _outside_compiled_regions(function: Callable[P, R]) -> Callable[P, R]:
    """The function as it is, also where torch.compile traces its caller: it runs behind a graph break.

    A loop that flips requires_grad and calls autograd does not trace. Outside a compiled region it must not be
    disabled, or a compiled model would run uncompiled.
    """

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        run = torch.compiler.disable(function) if torch.compiler.is_compiling() else function
        return run(*args, **kwargs)

    return call


@_outside_compiled_regions
def attack(
    model: Model,
    x: Tensor,
    goal: Tensor,
    base: PGDOptions | None,
    changes: Mapping[str, Any],
    *,
    targeted: bool | Tensor = True,
    y: Tensor | None = None,
    clean_logits: Tensor | None = None,
    sample_ids: Tensor | None = None,
) -> Tensor | AttackResult:
    """Attack a batch: towards ``goal`` where ``targeted``, one for all or (N,), and away from it elsewhere.

    ``changes``: options by name, on top of those of ``base``.
    """
    check_call(model)
    direction = targeted if isinstance(targeted, bool) else None
    options = PGDOptions.named(changes, targeted=direction) if base is None else base.updated(changes)
    batch = make_batch(x, goal, options, targeted=targeted, y=y, clean_logits=clean_logits, sample_ids=sample_ids)
    if options.early_stop:
        check_may_stop_early(model)
    seed = _next_seed() if options.seed is None else options.seed
    # Batch statistics of no images do not exist.
    bn_mode = options.bn_mode if len(batch.x) else "eval"
    with (
        frozen(model, bn_mode, lazy=options.engine != "eager") as state,
        own_random_numbers(state.model, bn_mode, tuple(state.settings), batch.x, seed),
        torch.enable_grad(),
    ):
        network = Network(state, batch.x, amp=options.amp, normalized=options.normalize is not None)
        steps = PGDSteps(network, batch, options, seed)
        if len(batch.x) == 0:
            columns = steps.nothing() if options.return_info else {"x_adv": torch.empty_like(batch.x)}
        else:
            columns = engines.run(
                steps,
                options.engine,
                check=options.engine_check,
                restarts=options.restarts,
                chunk_size=options.chunk_size,
            )
    columns.pop("targeted", None)  # which only the choice among restarts reads
    return AttackResult(**columns) if options.return_info else columns["x_adv"]


class _UnseededCalls:
    """Counts attacks without a seed under the current ``torch.initial_seed()``."""

    lock = threading.Lock()
    initial_seed: int | None = None
    count = 0


def _next_seed() -> int:
    """A fresh seed for every call that takes nothing from PyTorch's generators, the same in every run."""
    calls, initial = _UnseededCalls, torch.initial_seed()
    with calls.lock:
        if calls.initial_seed != initial:
            calls.initial_seed, calls.count = initial, 0
        count = calls.count
        calls.count += 1
    # An odd multiplier walks through all 2**64 values; runs with neighboring initial seeds do not overlap.
    return (initial + 0x9E3779B97F4A7C15 * count) % 2**64
