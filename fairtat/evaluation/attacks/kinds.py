"""The attacks that an evaluation knows, one line each; every other module asks this table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

AUTOATTACK = ("apgd-ce", "apgd-t", "fab-t", "square")
"""The stages of the standard version of AutoAttack (Croce and Hein 2020, arXiv:2003.01690)."""

Option = Literal["steps", "step_size", "restarts", "target"]
_PGD_OPTIONS: frozenset[Option] = frozenset(("steps", "step_size", "restarts", "target"))


@dataclass(frozen=True)
class AttackKind:
    """What an attack's name means.

    Attributes:
        title: the name in the literature.
        steps: the usual number of gradient steps (square: queries, noise: draws).
        loss: what the attack raises: cross-entropy, the margin or the difference of logits ratio. FAB and DeepFool
            have none: they look for the nearest point beyond the decision boundary.
        options: which of the user's defaults apply if the name does not say; "target" if it can be aimed at a class.
        gradient: whether it depends on the model's gradients.
        least_steps, most_steps: the numbers of steps that make sense.
        pooled: whether it always leaves an image alone once it is fooled, as AutoAttack's do.
        norm: the only one that it works in; None: linf and l2.
        draws: whether it begins at random points, so that restarts find more.
        targets: whether it tries several classes in turn.
        counted: whether a name carries the number of steps even if it is the usual one.
    """

    title: str
    steps: int
    loss: str
    options: frozenset[Option] = frozenset()
    gradient: bool = True
    least_steps: int = 1
    most_steps: int | None = None
    pooled: bool = False
    norm: str | None = None
    draws: bool = True
    targets: bool = False
    counted: bool = False

    @property
    def single_step(self) -> bool:
        """Whether it takes one step from the image itself."""
        return self.most_steps == 1

    def with_count(self, name: str, steps: int) -> str:
        """``name`` with the number of steps where that has to be said: "pgd-20"."""
        return f"{name}-{steps}" if self.counted or steps != self.steps else name


ATTACKS: dict[str, AttackKind] = {
    "fgsm": AttackKind("FGSM", 1, "ce", most_steps=1),
    "pgd": AttackKind("PGD", 20, "ce", _PGD_OPTIONS, least_steps=0, counted=True),
    "cw": AttackKind("CW", 20, "margin", _PGD_OPTIONS, counted=True),
    "noise": AttackKind("noise", 20, "margin", gradient=False, counted=True),
    "apgd-ce": AttackKind("APGD-CE", 100, "ce", pooled=True),
    "apgd-dlr": AttackKind("APGD-DLR", 100, "dlr", pooled=True),
    "apgd-t": AttackKind("APGD-T", 100, "dlr", pooled=True, targets=True),
    "fab": AttackKind("FAB", 100, "none", pooled=True),
    "fab-t": AttackKind("FAB-T", 100, "none", pooled=True, targets=True),
    "mt": AttackKind(
        "MT", 20, "margin", frozenset(("steps", "step_size", "restarts")), pooled=True, counted=True, targets=True
    ),
    "cw-l2": AttackKind("CW-L2", 1000, "margin", pooled=True, norm="l2", draws=False),
    "deepfool": AttackKind("DeepFool", 50, "none", pooled=True, draws=False),
    "square": AttackKind("Square", 5000, "margin", gradient=False, pooled=True),
}
"""fgsm, pgd (cross-entropy), cw (PGD on the Carlini-Wagner margin) and noise (uniform points of the ball) are variants
of one loop; mt is multi-targeted PGD, cw-l2 and deepfool look for the nearest adversarial point, and the others are
AutoAttack's."""


def attacks_with(option: Option) -> str:
    """The names of the attacks that take an option, for messages: "pgd and cw"."""
    return " and ".join(name for name, kind in ATTACKS.items() if option in kind.options)
