"""fairtat: fast and exact fair adversarial training for PyTorch."""

import importlib
from typing import Any

from fairtat import backends, ops
from fairtat._version import __version__
from fairtat.attacks import AttackResult, TargetedPGD, fast_pgd, fast_targeted_pgd
from fairtat.fairness import ClassStats, FairTAT

__all__ = [
    "AttackResult",
    "ClassStats",
    "FairTAT",
    "TargetedPGD",
    "__version__",
    "backends",
    "evaluate",
    "fast_pgd",
    "fast_targeted_pgd",
    "ops",
]


def __getattr__(name: str) -> Any:
    if name != "evaluate":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Not at import: who only attacks or trains pays nothing for what evaluation needs.
    return importlib.import_module("fairtat.evaluation").evaluate
