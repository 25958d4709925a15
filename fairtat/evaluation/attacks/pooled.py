"""The attacks that leave fooled images alone, AutoAttack's among them, as an evaluation names them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fairtat.attacks import AttackResult, apgd, cw_l2, deepfool, fab, multi_targeted_pgd, square
from fairtat.attacks.autoattack import APGD, FAB
from fairtat.attacks.multi_targeted import MultiTargeted
from fairtat.evaluation.attacks.settings import AttackSettings

_LOSSES = {"apgd-ce": "ce", "apgd-dlr": "dlr", "apgd-t": "dlr-targeted"}


def pooled_result(model: Any, x: Tensor, y: Tensor, settings: AttackSettings, **options: Any) -> AttackResult:
    """What the attack of these settings finds."""
    name, steps = settings.attack, settings.steps
    options |= {"eps": settings.eps, "norm": settings.norm, "seed": settings.seed, "return_info": True}
    found: Tensor | AttackResult
    if name == "deepfool":
        found = deepfool(model, x, y, n_iter=steps, **options)
    elif name == "cw-l2":
        del options["norm"]
        found = cw_l2(model, x, y, n_iter=steps, **options)
    else:
        options["n_restarts"] = settings.restarts
        if name in _LOSSES:
            found = apgd(model, x, y, loss=_LOSSES[name], n_iter=steps, **options)
        elif name == "mt":
            found = multi_targeted_pgd(model, x, y, n_iter=steps, step_size=settings.step_size, **options)
        elif name == "square":
            found = square(model, x, y, n_queries=steps, **options)
        else:
            found = fab(model, x, y, targeted=name == "fab-t", n_iter=steps, **options)
    assert isinstance(found, AttackResult)
    return found


def few_class_notes(settings: AttackSettings, num_classes: int) -> list[str]:
    """What this attack does otherwise than in the papers, on a model of few classes."""
    stage: APGD | FAB | MultiTargeted
    if settings.attack in _LOSSES:
        stage = APGD(_LOSSES[settings.attack])
    elif settings.attack == "fab-t":
        stage = FAB(targeted=True)
    elif settings.attack == "mt":
        stage = MultiTargeted()
    else:
        return []
    return list(stage.notes(num_classes, target_given=False))
