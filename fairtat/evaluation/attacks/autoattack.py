"""AutoAttack's attacks, from the package pyautoattack.

Why that one: it is the code of AutoAttack's authors (Croce and Hein 2020, arXiv:2003.01690) as a package, with the
hyperparameters of the paper and of RobustBench: 100 iterations, 9 targets, 5,000 queries. torchattacks 3.5.1 runs the
APGD inside its AutoAttack for 10 steps, and in L2 gives all images the step size of the first one; adv-lib has no
Square attack; autoattack itself is not on PyPI.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from fairtat.engines.model.random_numbers import borrowed_generators
from fairtat.engines.model.state import frozen
from fairtat.evaluation.attacks.kinds import ATTACKS
from fairtat.evaluation.attacks.settings import AttackSettings
from fairtat.optional import optional_import

_SLACK = 1e-5  # of the radius and of [0, 1], for rounding in float32

Call = Callable[[Tensor], Tensor]

# The library reports vanishing gradients here; `fairtat.evaluation.checks.masking` looks for them separately.
_LOGGER = logging.getLogger("fairtat.autoattack")
_LOGGER.addHandler(logging.NullHandler())
_LOGGER.propagate = False


def library_attack(model: Any, call: Call, x: Tensor, y: Tensor, settings: AttackSettings, num_classes: int) -> Tensor:
    """Adversarial images (n, ...) for images in [0, 1]; where nothing was found, or not in the ball, the image itself.

    ``call`` maps images in [0, 1] to logits by way of ``model``, which is in eval mode and frozen meanwhile.
    Random numbers come from ``settings.seed`` for each batch; PyTorch's generators are left as they were.

    Raises:
        UserError: pyautoattack is not installed.
    """
    attack = _make(call, settings, num_classes)
    with frozen(model, "eval"), borrowed_generators(x, settings.seed), torch.no_grad():
        x_adv: Tensor = attack.perturb(x.clone(), y.clone())
    delta = (x_adv - x).flatten(1)
    size = delta.abs().amax(1) if settings.norm == "linf" else delta.norm(dim=1)
    inside = (size <= settings.eps * (1 + _SLACK) + 1e-6) & ~x_adv.flatten(1).isnan().any(1)
    return torch.where(inside.view(-1, *[1] * (x.ndim - 1)), x_adv, x).clamp(0, 1).detach()


def _make(call: Call, settings: AttackSettings, num_classes: int) -> Any:
    common: dict[str, Any] = {
        "norm": {"linf": "Linf", "l2": "L2"}[settings.norm],
        "eps": settings.eps,
        "n_restarts": settings.restarts,
        "seed": settings.seed % 2**63,
        "verbose": False,
    }
    targets = min(9, num_classes - 1)
    if settings.attack in ("apgd-ce", "apgd-dlr"):
        apgd = _module("autopgd_base", settings).APGDAttack
        return apgd(call, n_iter=settings.steps, loss=ATTACKS[settings.attack].loss, logger=_LOGGER, **common)
    if settings.attack == "apgd-t":
        targeted = _module("autopgd_base", settings).APGDAttack_targeted
        return targeted(call, n_iter=settings.steps, n_target_classes=targets, logger=_LOGGER, **common)
    if settings.attack == "fab-t":
        fab = _module("fab_pt", settings).FABAttack_PT
        return fab(call, n_iter=settings.steps, targeted=True, n_target_classes=targets, **common)
    assert settings.attack == "square"
    square = _module("square", settings).SquareAttack
    return square(call, n_queries=settings.steps, p_init=0.8, resc_schedule=False, **common)


def _module(name: str, settings: AttackSettings) -> ModuleType:
    return optional_import(f"pyautoattack.{name}", purpose=f"attack {settings.name!r}", extra="eval")
