"""The attacks: one loop, targeted and untargeted, around any PyTorch classifier; and those that samples leave early."""

from fairtat.attacks.autoattack import AutoAttackFlags, apgd, fab, square
from fairtat.attacks.carlini_wagner import cw_l2
from fairtat.attacks.deep_fool import deepfool
from fairtat.attacks.mixed import fast_mixed_pgd
from fairtat.attacks.multi_targeted import multi_targeted_pgd
from fairtat.attacks.pgd import TargetedPGD, fast_pgd, fast_targeted_pgd
from fairtat.attacks.result import AttackResult
from fairtat.engines import EngineFallback

__all__ = [
    "AttackResult",
    "AutoAttackFlags",
    "EngineFallback",
    "TargetedPGD",
    "apgd",
    "cw_l2",
    "deepfool",
    "fab",
    "fast_mixed_pgd",
    "fast_pgd",
    "fast_targeted_pgd",
    "multi_targeted_pgd",
    "square",
]
