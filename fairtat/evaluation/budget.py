"""An evaluation within a given time: what goes first, and what was not tried."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fairtat.errors import UserError
from fairtat.evaluation.attacks.kinds import AUTOATTACK
from fairtat.evaluation.attacks.settings import AttackSettings, suite
from fairtat.evaluation.checks.finding import Finding

__all__ = ["BUDGET", "STRONGEST_FIRST", "Untried", "budget_finding", "seconds", "strongest_first"]

STRONGEST_FIRST = ("apgd-ce", "apgd-t", "square", "fab-t")
"""AutoAttack's attacks as a budget runs them: what FAB-T alone finds is the least, and it is the dearest."""

BUDGET = "budget:not-tried"
"""The finding's id."""

_UNITS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Untried:
    """An attack that the time did not suffice for.

    Attributes:
        condition: name of the condition that it belongs to.
        attack: the attack, as the literature writes it, or what else was to be computed.
        images: how many images are left that it should have been tried on.
        kept: whether the condition is reported, as an upper bound of the accuracy; else it is left out.
    """

    condition: str
    attack: str
    images: int
    kept: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def seconds(text: str) -> float:
    """The seconds of "90s", "30m", "2h", "1.5h", "1d" or "1h30m".

    Raises:
        UserError: something else, or no time at all.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)(min|[smhd])", text.strip().lower())
    total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text.strip().lower() or total <= 0:
        raise UserError(f"budget is {text!r}; expected a time such as 90s, 30m, 2h or 1h30m")
    return total


def strongest_first(settings: AttackSettings) -> AttackSettings:
    """AutoAttack in the order of `STRONGEST_FIRST`; any other attack as it is."""
    stages = {stage.attack: stage for stage in settings.stages}
    if tuple(stages) != AUTOATTACK or settings.name != "autoattack":
        return settings
    return suite([stages[name] for name in STRONGEST_FIRST])


def budget_finding(untried: Sequence[Untried]) -> list[Finding]:
    """What was not tried, in words; nothing if everything was."""
    if not untried:
        return []
    partly = [f"{each.attack} on {each.images} images ({each.condition})" for each in untried if each.kept]
    wholly = list(dict.fromkeys(each.condition for each in untried if not each.kept))
    text = "The budget was over before everything was tried."
    if partly:
        text += f" Not tried: {', '.join(partly)}. Accuracy under these conditions is an upper bound."
    if wholly:
        text += f" Left out: {', '.join(wholly)}."
    return [Finding(BUDGET, "warning", f"{text} The same command with more time goes on from here.")]
