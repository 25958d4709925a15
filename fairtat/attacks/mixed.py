"""fast_mixed_pgd: the attack of which fast_targeted_pgd and fast_pgd are the two corners."""

from __future__ import annotations

from typing import Any, overload

from torch import Tensor
from typing_extensions import TypedDict, Unpack

from fairtat.attacks.options import ForEither, ForImages, ForResult, shows_pgd_options
from fairtat.attacks.pgd import attack
from fairtat.attacks.result import AttackResult
from fairtat.checks import check_tensor
from fairtat.engines.model.state import Model

__all__ = ["fast_mixed_pgd"]


class _Tensors(TypedDict, total=False):
    y: Tensor | None  # (N,)
    clean_logits: Tensor | None  # (N, C)


class _ForResult(ForResult, _Tensors): ...


class _ForImages(ForImages, _Tensors): ...


class _ForEither(ForEither, _Tensors): ...


@overload
def fast_mixed_pgd(
    model: Model, x: Tensor, goal: Tensor, targeted: Tensor, **options: Unpack[_ForResult]
) -> AttackResult: ...
@overload
def fast_mixed_pgd(
    model: Model, x: Tensor, goal: Tensor, targeted: Tensor, **options: Unpack[_ForImages]
) -> Tensor: ...
@overload
def fast_mixed_pgd(
    model: Model, x: Tensor, goal: Tensor, targeted: Tensor, **options: Unpack[_ForEither]
) -> Tensor | AttackResult: ...
@shows_pgd_options
def fast_mixed_pgd(
    model: Model,
    x: Tensor,  # (N, ...)
    goal: Tensor,  # (N,)
    targeted: Tensor,  # (N,)
    *,
    y: Tensor | None = None,  # (N,)
    clean_logits: Tensor | None = None,  # (N, C)
    sample_ids: Tensor | None = None,  # (N,)
    **options: Any,  # as PGDOptions
) -> Tensor | AttackResult:
    """Move some images of a batch towards target classes and the others away from their labels, in the same passes.

    :func:`fast_targeted_pgd` where ``targeted``, :func:`fast_pgd` elsewhere. With d = +1 where ``targeted`` and -1
    elsewhere, and J the loss of the sample's direction at its goal t::

        x_adv <- project(x_adv - d * step_size * sign(dJ(f(x_adv), t) / dx_adv))        on B(x) and the bounds

    A sample gets what the attack of its direction gives it alone: in Linf to the last bit, wherever the model computes
    the same for a sample in any batch. Its start depends on (seed, id, restart), so pass the same ``sample_ids`` when a
    part of the batch is attacked separately.

    Args:
        model: As in :func:`fast_targeted_pgd`, like all arguments that are not listed here.
        x: Images (N, ...) in ``bounds``.
        goal: Classes (N,), an integer dtype: the target of a sample that is targeted, the label of one that is not.
        targeted: (N,) bool: which samples move towards their goal.
        y: True labels (N,). They are checked to differ from ``goal`` where targeted and to equal it elsewhere; required
            by ``loss="dlr"`` of targeted samples, otherwise unused.
        clean_logits: The model's logits or log-probabilities for x, (N, C); only where a loss is "kl".
        loss: A pair (of the targeted samples, of the others), or one name for both: "ce", "margin" or "dlr" as in
            :func:`fast_targeted_pgd`; the second may also be "kl", as in :func:`fast_pgd`.
        restarts: The start that is kept: one that reached its goal before one that did not, then the smaller loss of a
            targeted sample and the larger of another.
        early_stop: A targeted sample stops once its prediction is its goal, another once it is misclassified.

    Returns:
        x_adv like x; with ``return_info=True`` an :class:`AttackResult` whose ``reached`` means ``pred == goal`` where
        targeted and ``pred != goal`` elsewhere.

    Raises:
        ValueError, TypeError, RuntimeError: as :func:`fast_targeted_pgd`.

    Source: Madry et al. 2018, arXiv:1706.06083.
    """
    check_tensor("targeted", targeted)
    return attack(
        model, x, goal, None, options, targeted=targeted, y=y, clean_logits=clean_logits, sample_ids=sample_ids
    )
