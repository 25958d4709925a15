"""AutoAttack (Croce and Hein 2020, arXiv:2003.01690) on fairtat's engines: the suite and its attacks."""

from fairtat.attacks.autoattack.calls import apgd, fab, square
from fairtat.attacks.autoattack.stages import APGD, FAB, Square
from fairtat.attacks.autoattack.suite import AutoAttackFlags, autoattack

__all__ = ["APGD", "FAB", "AutoAttackFlags", "Square", "apgd", "autoattack", "fab", "square"]
