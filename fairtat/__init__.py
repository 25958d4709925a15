"""fairtat: fast and exact fair adversarial training for PyTorch."""

from typing import Any

from fairtat import backends, ops
from fairtat._version import __version__
from fairtat.attacks import (
    AttackResult,
    AutoAttackFlags,
    EngineFallback,
    TargetedPGD,
    fast_mixed_pgd,
    fast_pgd,
    fast_targeted_pgd,
)
from fairtat.attacks.autoattack import autoattack
from fairtat.fairness import ClassStats, FairTAT

__all__ = [
    "AttackResult",
    "AutoAttackFlags",
    "ClassStats",
    "EngineFallback",
    "FairTAT",
    "TargetedPGD",
    "__version__",
    "autoattack",
    "backends",
    "evaluate",
    "fast_mixed_pgd",
    "fast_pgd",
    "fast_targeted_pgd",
    "load_run",
    "ops",
]

# Imported when they are used: an attack or a training loop does not pay for what evaluation and run folders need.
_LAZY = {"evaluate": "fairtat.evaluation", "load_run": "fairtat.training"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return __all__
