"""The attacks: one loop, targeted and untargeted, around any PyTorch classifier; and the attacks of AutoAttack."""

from fairtat.attacks.autoattack import AutoAttackFlags, apgd, fab, square
from fairtat.attacks.mixed import fast_mixed_pgd
from fairtat.attacks.pgd import TargetedPGD, fast_pgd, fast_targeted_pgd
from fairtat.attacks.result import AttackResult
from fairtat.engines import EngineFallback

__all__ = [
    "AttackResult",
    "AutoAttackFlags",
    "EngineFallback",
    "TargetedPGD",
    "apgd",
    "fab",
    "fast_mixed_pgd",
    "fast_pgd",
    "fast_targeted_pgd",
    "square",
]
