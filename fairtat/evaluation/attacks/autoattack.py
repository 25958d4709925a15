"""AutoAttack's attacks as an evaluation names them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from fairtat.attacks import AttackResult, apgd, fab, square
from fairtat.attacks.autoattack import APGD, FAB
from fairtat.evaluation.attacks.settings import AttackSettings

_LOSSES = {"apgd-ce": "ce", "apgd-dlr": "dlr", "apgd-t": "dlr-targeted"}


def autoattack_call(settings: AttackSettings) -> Callable[..., AttackResult]:
    """The attack with its options; takes the model, images and labels."""
    common: dict[str, Any] = {
        "eps": settings.eps, "norm": settings.norm, "n_restarts": settings.restarts, "seed": settings.seed,
        "return_info": True,
    }  # fmt: skip
    if settings.attack in _LOSSES:
        return partial(apgd, loss=_LOSSES[settings.attack], n_iter=settings.steps, **common)
    if settings.attack == "square":
        return partial(square, n_queries=settings.steps, **common)
    return partial(fab, targeted=settings.attack == "fab-t", n_iter=settings.steps, **common)


def few_class_notes(settings: AttackSettings, num_classes: int) -> list[str]:
    """What this attack does otherwise than in the papers, on a model of few classes."""
    if settings.attack in _LOSSES:
        return list(APGD(_LOSSES[settings.attack]).notes(num_classes, target_given=False))
    if settings.attack == "fab-t":
        return list(FAB(targeted=True).notes(num_classes, target_given=False))
    return []
