"""AutoAttack's attacks as an evaluation names them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fairtat.attacks import AttackResult, apgd, fab, square
from fairtat.attacks.autoattack import APGD, FAB
from fairtat.evaluation.attacks.settings import AttackSettings

_LOSSES = {"apgd-ce": "ce", "apgd-dlr": "dlr", "apgd-t": "dlr-targeted"}


def autoattack_result(model: Any, x: Tensor, y: Tensor, settings: AttackSettings, **options: Any) -> AttackResult:
    """What the attack of these settings finds."""
    options |= {"eps": settings.eps, "norm": settings.norm, "n_restarts": settings.restarts, "seed": settings.seed}
    found: Tensor | AttackResult
    if settings.attack in _LOSSES:
        loss = _LOSSES[settings.attack]
        found = apgd(model, x, y, loss=loss, n_iter=settings.steps, return_info=True, **options)
    elif settings.attack == "square":
        found = square(model, x, y, n_queries=settings.steps, return_info=True, **options)
    else:
        targeted = settings.attack == "fab-t"
        found = fab(model, x, y, targeted=targeted, n_iter=settings.steps, return_info=True, **options)
    assert isinstance(found, AttackResult)
    return found


def few_class_notes(settings: AttackSettings, num_classes: int) -> list[str]:
    """What this attack does otherwise than in the papers, on a model of few classes."""
    if settings.attack in _LOSSES:
        return list(APGD(_LOSSES[settings.attack]).notes(num_classes, target_given=False))
    if settings.attack == "fab-t":
        return list(FAB(targeted=True).notes(num_classes, target_given=False))
    return []
