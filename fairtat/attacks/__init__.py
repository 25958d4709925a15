"""The attacks: one loop, towards targets and away from labels, around any PyTorch classifier."""

from fairtat.attacks.mixed import fast_mixed_pgd
from fairtat.attacks.pgd import TargetedPGD, fast_pgd, fast_targeted_pgd
from fairtat.attacks.result import AttackResult
from fairtat.engines import EngineFallback

__all__ = ["AttackResult", "EngineFallback", "TargetedPGD", "fast_mixed_pgd", "fast_pgd", "fast_targeted_pgd"]
