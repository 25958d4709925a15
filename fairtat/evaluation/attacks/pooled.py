"""The attacks that leave fooled images alone, AutoAttack's among them, as an evaluation names them."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from typing_extensions import Unpack

from fairtat.attacks import AttackResult
from fairtat.attacks.autoattack import APGD, FAB, Square
from fairtat.attacks.autoattack.calls import CallKeywords, run_stage
from fairtat.attacks.autoattack.stages import Stage
from fairtat.attacks.carlini_wagner import CarliniWagner
from fairtat.attacks.deep_fool import DeepFool
from fairtat.attacks.multi_targeted import MultiTargeted
from fairtat.evaluation.attacks.settings import AttackSettings

_LOSSES = {"apgd-ce": "ce", "apgd-dlr": "dlr", "apgd-t": "dlr-targeted"}


def stage_of(settings: AttackSettings) -> Stage:
    """The attack of these settings."""
    name, steps, restarts = settings.attack, settings.steps, settings.restarts
    if name in _LOSSES:
        return APGD(_LOSSES[name], steps, restarts)
    if name == "deepfool":
        return DeepFool(steps)
    if name == "cw-l2":
        return CarliniWagner(steps)
    if name == "mt":
        return MultiTargeted(settings.step_size, steps, restarts)
    if name == "square":
        return Square(steps, restarts)
    return FAB(name == "fab-t", steps, restarts)


def pooled_result(
    model: Any,
    x: Tensor,
    y: Tensor,
    settings: AttackSettings,
    *,
    requested: bool,
    **options: Unpack[CallKeywords],
) -> AttackResult:
    """What the attack of these settings finds; ``requested``: the engine was asked for by name."""
    options["seed"] = settings.seed
    found = run_stage(stage_of(settings), model, x, y, settings.eps, settings.norm, options, True, requested=requested)
    assert isinstance(found, AttackResult)
    return found
