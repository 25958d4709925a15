"""torchattacks' attacks: subclasses that run fairtat's attack.

Source: Kim 2020, Torchattacks, arXiv:2010.01950; its version 3.5.
"""

from fairtat.integrations.torchattacks.gradient import FGSM, MIFGSM, PGD, PGDL2
from fairtat.integrations.torchattacks.nearest import CW, DeepFool
from fairtat.integrations.torchattacks.search import APGD, APGDT, FAB, AutoAttack, Square

__all__ = ["APGD", "APGDT", "CW", "FAB", "FGSM", "MIFGSM", "PGD", "PGDL2", "AutoAttack", "DeepFool", "Square"]
