"""fairtat: fast and exact fair adversarial training for PyTorch."""

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
    "fast_pgd",
    "fast_targeted_pgd",
    "ops",
]
