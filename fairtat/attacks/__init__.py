"""The attacks: one loop, targeted and untargeted, around any PyTorch classifier."""

from fairtat.attacks.pgd import TargetedPGD, fast_pgd, fast_targeted_pgd
from fairtat.attacks.result import AttackResult
from fairtat.engines import EngineFallback

__all__ = ["AttackResult", "EngineFallback", "TargetedPGD", "fast_pgd", "fast_targeted_pgd"]
