"""apgd, fab and square: the attacks of AutoAttack, each on its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from typing_extensions import TypedDict, Unpack

from fairtat.attacks.autoattack.arena import arena
from fairtat.attacks.autoattack.fab_steps import Rates
from fairtat.attacks.autoattack.pool import Outcome
from fairtat.attacks.autoattack.stages import APGD, FAB, Square, Stage, carry_out
from fairtat.attacks.options import PerChannel
from fairtat.attacks.result import AttackResult
from fairtat.engines.model.state import Model
from fairtat.errors import did_you_mean
from fairtat.keywords import shows_options
from fairtat.ops import logit_loss


class CallKeywords(TypedDict, total=False):
    """The options that all these attacks take."""

    target: Tensor | None  # (N,)
    sample_ids: Tensor | None  # (N,)
    bounds: tuple[float, float]
    normalize: tuple[PerChannel, PerChannel] | None  # (C,), (C,)
    amp: torch.dtype | None
    gradient: str
    seed: int
    engine: str
    engine_check: str
    chunk_size: int | None
    check: bool


_DEFAULTS: dict[str, Any] = {
    "target": None, "sample_ids": None, "bounds": (0.0, 1.0), "normalize": None, "amp": None, "gradient": "autograd",
    "seed": 0, "engine": "auto", "engine_check": "first", "chunk_size": None, "check": True,
}  # fmt: skip


shows_call_options = shows_options(
    (name, default, CallKeywords.__annotations__[name].__forward_arg__) for name, default in _DEFAULTS.items()
)


def named(options: CallKeywords) -> dict[str, Any]:
    """All options, those that are not given with their defaults; an unknown name is a TypeError."""
    for name in options.keys() - _DEFAULTS.keys():
        raise TypeError(f"{name!r} is not an option of the attack{did_you_mean(name, _DEFAULTS)}")
    return {**_DEFAULTS, **options}


@shows_call_options
def apgd(
    model: Model,
    x: Tensor,  # (N, ...)
    y: Tensor,  # (N,)
    *,
    eps: float | Tensor = 8 / 255,  # scalar or (N,)
    norm: str = "linf",
    loss: str = "ce",
    n_iter: int = 100,
    n_restarts: int = 1,
    n_target_classes: int = 9,
    eot_iter: int = 1,
    rho: float = 0.75,
    return_info: bool = False,
    **options: Unpack[CallKeywords],
) -> Tensor | AttackResult:
    """Look for adversarial images by Auto-PGD: gradient steps with momentum, and a step size that adapts per sample.

    From a random point on the edge of the ball, with p the projection on the ball and the bounds::

        z     = p(x_k + step_size * sign(dJ(f(x_k), y) / dx_k))
        x_k+1 = p(x_k + 0.75 (z - x_k) + 0.25 (x_k - x_k-1))

    ``step_size`` starts at ``2 eps``. At checkpoints (after 22% of the steps, then 19%, 16%, ... of them later, at
    least 6%) it halves, and the sample returns to its point of largest J, where J rose in at most ``rho`` of the
    steps, or where neither the step size nor the largest J has changed since the last checkpoint. In L2, the sign
    becomes ``g / (||g|| + 1e-12)``.

    An image leaves the batch soon after it has been fooled, and another takes its place. A point counts only if a plain
    forward pass of the model confirms it, whatever engine or precision found it. Random numbers depend on (seed, sample
    id, loss, target, restart) alone. The model is left as it was found, as by :func:`fairtat.fast_pgd`, and the same
    holds for threads.

    Args:
        model: As in :func:`fairtat.fast_targeted_pgd`, like all arguments that are not listed here.
        x: Images (N, ...) in ``bounds``, float32 or float64.
        y: True labels (N,). Images that the model gets wrong are returned as they are.
        eps: Radius in pixel units, a number or (N,).
        norm: "linf" or "l2".
        loss: J: "ce", "dlr" (difference of logits ratio), "dlr-targeted" (APGD-T: one run for each of
            ``n_target_classes`` other classes, in the order of the image's logits), "margin" or "margin-targeted". With
            fewer than 3 classes (targeted: 4) the margin takes the place of DLR.
        n_iter: Steps in each run.
        n_restarts: Runs, for the images that are not fooled yet.
        n_target_classes: Of the targeted losses; at most the other classes that there are.
        eot_iter: Gradients to average per step, for a model that draws random numbers; runs eagerly, and the last
            point that was misclassified is judged once, at the end.
        rho: See above.
        return_info: Return an :class:`AttackResult`.
        target: Classes (N,) to reach; an image is fooled only by becoming that class.
        sample_ids: Integers (N,), default ``arange(N)``.
        amp: torch.bfloat16 or torch.float16 around the model while it searches.
        gradient: "autograd", or "ste": sign, rounding and step functions are skipped on the way back, for binarized
            and quantized models, whose gradients are zero; runs eagerly.
        engine: "eager", "compiled", "graph", "compiled_graph" or "auto". That is "graph" on a GPU, and on a CPU
            "compiled" where this attack may take so many operations on these images that a program pays, else "eager";
            a count and not a clock decides, so that the same call gives the same bits. All but "eager" pad the batch by
            less than an eighth, and halve it twice as images leave, so that few programs serve.
        chunk_size: Images in one pass of the model; default all.

    Returns:
        x_adv like x: an adversarial image where one was found, else the image itself. With ``return_info=True`` an
        :class:`AttackResult` with the model's logits for x_adv and ``reached`` for "fooled".

    Raises:
        ValueError, TypeError, RuntimeError: as :func:`fairtat.fast_pgd`.

    Source: Croce and Hein 2020, arXiv:2003.01690.
    """
    stage = APGD(loss, n_iter, n_restarts, n_target_classes, eot_iter, rho)
    return run_stage(stage, model, x, y, eps, norm, options, return_info)


@shows_call_options
def fab(
    model: Model,
    x: Tensor,  # (N, ...)
    y: Tensor,  # (N,)
    *,
    eps: float | Tensor = 8 / 255,  # scalar or (N,)
    norm: str = "linf",
    targeted: bool = False,
    n_iter: int = 100,
    n_restarts: int = 1,
    n_target_classes: int = 9,
    alpha_max: float = 0.1,
    eta: float = 1.05,
    beta: float = 0.9,
    return_info: bool = False,
    **options: Unpack[CallKeywords],
) -> Tensor | AttackResult:
    """Look for adversarial images by FAB: steps to the linearized decision boundary, biased towards the image.

    Each step projects the current point and the image on the plane where the linearized difference of two logits is
    zero, within the bounds (``fairtat.attacks.autoattack.projection`` has the equation), goes ``eta`` times that far,
    and mixes the two with the weight alpha, at most ``alpha_max``. A point beyond the boundary is pulled back to
    ``x + beta (x' - x)``. A point within ``eps`` ends the search for its image.

    Args:
        model, x, y, options: As in :func:`apgd`.
        targeted: FAB-T: towards each of ``n_target_classes`` other classes in turn, one backward pass per step.
            Untargeted, each step takes the class whose plane is nearest, at the cost of a backward pass per class.
        n_iter: Projections in each run.
        n_restarts: Runs; all after the first begin at a random point, half the radius away.
        alpha_max, eta, beta: See above.

    Returns:
        As :func:`apgd`.

    Raises:
        ValueError, TypeError, RuntimeError: as :func:`fairtat.fast_pgd`.

    Source: Croce and Hein 2020, arXiv:1907.02044.
    """
    stage = FAB(targeted, n_iter, n_restarts, n_target_classes, Rates(alpha_max, eta, beta))
    return run_stage(stage, model, x, y, eps, norm, options, return_info)


@shows_call_options
def square(
    model: Model,
    x: Tensor,  # (N, C, H, W)
    y: Tensor,  # (N,)
    *,
    eps: float | Tensor = 8 / 255,  # scalar or (N,)
    norm: str = "linf",
    n_queries: int = 5000,
    n_restarts: int = 1,
    p_init: float = 0.8,
    resc_schedule: bool = False,
    return_info: bool = False,
    **options: Unpack[CallKeywords],
) -> Tensor | AttackResult:
    """Look for adversarial images by the square attack: random search that needs no gradient.

    Each query replaces the perturbation within one square of random place by +-eps per channel (L2: by two pyramids
    of opposite signs, which take over the energy of another square), and keeps it if the margin between the label's
    logit and the largest other one falls. The square covers ``p`` of the image, ``p_init`` at first, halved after 10,
    50, 200, 500, 1000, 2000, 4000, 6000 and 8000 queries. Every image has squares of its own, from (seed, sample id,
    restart, query).

    Args:
        model, x, y, options: As in :func:`apgd`; x must be images (N, C, H, W).
        n_queries: Forward passes per image and run.
        n_restarts: Runs, for the images that are not fooled yet.
        p_init: See above.
        resc_schedule: Stretch the schedule from 10,000 queries to ``n_queries``.

    Returns:
        As :func:`apgd`.

    Raises:
        ValueError, TypeError, RuntimeError: as :func:`fairtat.fast_pgd`.

    Source: Andriushchenko et al. 2020, arXiv:1912.00049.
    """
    stage = Square(n_queries, n_restarts, p_init, resc_schedule)
    return run_stage(stage, model, x, y, eps, norm, options, return_info)


def run_stage(
    stage: Stage,
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float | Tensor | None,
    norm: str,
    options: CallKeywords,
    return_info: bool,
    *,
    requested: bool = True,
) -> Tensor | AttackResult:
    """One attack on its own; ``eps`` None: at any distance; ``requested`` as of :func:`fairtat.engines.run`."""
    given = named(options)
    with arena(model, x, y, eps=0.0 if eps is None else eps, norm=norm, **given) as here:
        here = replace(here, requested=requested)
        if eps is None:
            here = replace(here, eps=torch.full_like(here.eps, torch.inf))
        outcome = Outcome(here)
        carry_out(stage, here, outcome)
    if not return_info:
        return outcome.x_adv
    logits = outcome.logits
    kind = stage.loss_for(here.classes, target_given=False) if isinstance(stage, APGD) else "margin"
    loss = logit_loss(logits, here.y, kind=kind.removesuffix("-targeted")).loss
    return AttackResult(
        outcome.x_adv, logits, logits.argmax(1), outcome.reached, loss, outcome.zero_grad, outcome.steps
    )
