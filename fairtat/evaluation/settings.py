"""What is asked of a model: attacks and corruptions by name, with every setting that the answer depends on.

An attack's name is ``STAGE[+STAGE...][:NORM][@EPS]`` with ``STAGE = NAME[-COUNT][xRESTARTS]``: "pgd-20", "pgd-50x5",
"cw-20:l2@0.5", "apgd-ce+square-1000". A "+" makes a suite: an image that one stage has fooled is not shown to the next,
and counts as fooled. "autoattack" is the suite apgd-ce + apgd-t + fab-t + square.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any, NamedTuple

from fairtat.checks import check_count, real
from fairtat.errors import UserError, did_you_mean

NORMS = ("linf", "l2")
SUITE = "suite"
AUTOATTACK = ("apgd-ce", "apgd-t", "fab-t", "square")
"""The stages of the standard version of AutoAttack (Croce and Hein 2020, arXiv:2003.01690)."""


class AttackKind(NamedTuple):
    """What a name stands for: ``usual`` is the usual number of steps (square: queries, noise: draws)."""

    title: str
    usual: int
    min_classes: int = 2
    from_library: bool = False
    counted: bool = True  # whether a name carries the count even when it is the usual one


ATTACKS: dict[str, AttackKind] = {
    "fgsm": AttackKind("FGSM", 1, counted=False),
    "pgd": AttackKind("PGD", 20),
    "cw": AttackKind("CW", 20),
    "noise": AttackKind("noise", 20),
    "apgd-ce": AttackKind("APGD-CE", 100, from_library=True, counted=False),
    "apgd-dlr": AttackKind("APGD-DLR", 100, min_classes=3, from_library=True, counted=False),
    "apgd-t": AttackKind("APGD-T", 100, min_classes=4, from_library=True, counted=False),
    "fab-t": AttackKind("FAB-T", 100, from_library=True, counted=False),
    "square": AttackKind("Square", 5000, from_library=True, counted=False),
}
"""Every attack: fgsm, pgd (cross-entropy), cw (PGD on the Carlini-Wagner margin), noise (uniform points of the ball)
are fairtat's own; the others are AutoAttack's, from pyautoattack."""


@dataclass(frozen=True)
class AttackSettings:
    """One attack, or a suite of ``stages``; equal settings ask the same question of two models.

    Attributes:
        eps, step_size: in pixel units; step_size is None where the attack chooses its own.
        steps: gradient steps (square: queries; noise: draws).
        active_set: whether an image that is fooled already is left alone: one that the model gets wrong by itself, one
            that a step or an earlier stage has fooled. Without it every image is attacked for all steps, as the loops
            of most papers do, and the last step is what counts.
        stages: of a suite, in order; else empty.
    """

    attack: str
    eps: float
    norm: str = "linf"
    steps: int = 20
    step_size: float | None = None
    restarts: int = 1
    seed: int = 0
    active_set: bool = True
    stages: tuple[AttackSettings, ...] = ()

    def __post_init__(self) -> None:
        for name, value in (("eps", self.eps), ("step_size", self.step_size or 0.0)):
            real(name, value, low=0.0)
        for name, count, least in (("steps", self.steps, 0), ("restarts", self.restarts, 1)):
            check_count(name, count, least)

    def __str__(self) -> str:
        parts = [self.title, self.norm, f"eps {radius(self.eps)}"]
        if self.step_size is not None and self.attack in ("pgd", "cw"):
            parts.append(f"step {radius(self.step_size)}")
        if self.restarts != 1:
            parts.append(f"{self.restarts} restarts")
        if smaller := sorted({stage.eps for stage in self.stages} - {self.eps}):
            parts.append(f"after {', '.join(map(radius, smaller))}")
        return ", ".join(parts)

    @property
    def name(self) -> str:
        """Its short name without norm and radius: "pgd-20", "autoattack", "fgsm+cw-20"."""
        if self.attack == SUITE:
            names = tuple(stage.name for stage in self.stages if stage.eps == self.eps)
            return "autoattack" if names == AUTOATTACK else "+".join(names)
        kind = ATTACKS[self.attack]
        count = f"-{self.steps}" if kind.counted or self.steps != kind.usual else ""
        return f"{self.attack}{count}{'' if self.restarts == 1 else f'x{self.restarts}'}"

    @property
    def title(self) -> str:
        """The name as the literature writes it: "PGD-20", "AutoAttack"."""
        if self.attack == SUITE:
            if self.name == "autoattack":
                return "AutoAttack"
            return " + ".join(stage.title for stage in self.stages if stage.eps == self.eps)
        kind = ATTACKS[self.attack]
        return f"{kind.title}-{self.steps}" if kind.counted or self.steps != kind.usual else kind.title

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = asdict(self)
        values["stages"] = [stage.to_dict() for stage in self.stages]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AttackSettings:
        """From `to_dict`; ``TypeError`` on missing or unknown fields."""
        return cls(**{**values, "stages": tuple(cls.from_dict(stage) for stage in values["stages"])})


@dataclass(frozen=True)
class CorruptionSettings:
    """One corruption at one of five severities; ``made_by`` is "kornia" (made here) or "file" (read ready-made)."""

    corruption: str
    severity: int
    seed: int = 0
    made_by: str = "kornia"

    def __str__(self) -> str:
        return f"{self.corruption.replace('_', ' ')}, severity {self.severity}"

    @property
    def name(self) -> str:
        """Such as "gaussian_noise/3"."""
        return f"{self.corruption}/{self.severity}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


class Defaults(NamedTuple):
    """What a short name leaves open."""

    eps: float
    norm: str = "linf"
    steps: int = 20
    step_size: float | None = None
    restarts: int = 1
    seed: int = 0
    active_set: bool = True


def parse_attack(text: str, defaults: Defaults) -> AttackSettings:
    """The settings that a short name stands for; what it does not say is taken from ``defaults``.

    A step size that is not given is eps / 4 (FGSM: eps). One that is given belongs to ``defaults.eps`` and shrinks
    or grows in proportion to another radius.

    Raises:
        UserError: an unknown attack or norm, or a count or radius that is no number; it names the nearest attack.
    """
    matched = re.fullmatch(r"(?P<stages>[^:@]+)(:(?P<norm>[^@]*))?(@(?P<eps>.*))?", text.strip().lower())
    if matched is None:
        raise UserError(f"attack {text!r}: expected NAME, NAME@EPS or NAME:NORM@EPS, such as pgd-20@8/255")
    norm = matched["norm"] or defaults.norm
    if norm not in NORMS:
        raise UserError(f"attack {text!r}: norm is {norm!r}{did_you_mean(norm, NORMS)}")
    if norm != defaults.norm and not matched["eps"]:
        raise UserError(f"attack {text!r}: a radius in {norm} is needed too, such as {text.strip()}@0.5")
    eps = _number(text, matched["eps"]) if matched["eps"] else defaults.eps
    scale = eps / defaults.eps if defaults.eps else 1.0
    # A step in another norm says nothing about this one.
    step_size = None if defaults.step_size is None or norm != defaults.norm else scale * defaults.step_size
    names = [name for part in matched["stages"].split("+") for name in _expanded(part.strip())]
    stages = tuple(_stage(text, name, defaults._replace(eps=eps, norm=norm, step_size=step_size)) for name in names)
    return stages[0] if len(stages) == 1 else suite(stages)


def suite(stages: Sequence[AttackSettings]) -> AttackSettings:
    """Several attacks as one question: is there any that fools the model? Its radius is the last stage's."""
    last = stages[-1]
    return AttackSettings(
        attack=SUITE,
        eps=last.eps,
        norm=last.norm,
        steps=sum(stage.steps for stage in stages),
        seed=last.seed,
        active_set=last.active_set,
        stages=tuple(stages),
    )


def at_eps(settings: AttackSettings, eps: float) -> AttackSettings:
    """The same attack with another radius, and a step size in proportion."""
    scale = eps / settings.eps if settings.eps else 1.0
    return replace(
        settings,
        eps=eps,
        step_size=None if settings.step_size is None else settings.step_size * scale,
        stages=tuple(at_eps(stage, eps) for stage in settings.stages),
    )


def stages_of(settings: AttackSettings) -> tuple[AttackSettings, ...]:
    """The stages of a suite; an attack by itself is its own only stage."""
    return settings.stages or (settings,)


def radius(value: float) -> str:
    """A radius as the field writes it: 8/255 where it is one, else a decimal."""
    levels = 255 * value
    if float(f"{value:.2g}") == value:
        return f"{value:.2g}"
    return f"{round(levels)}/255" if round(levels) and abs(levels - round(levels)) < 1e-6 else f"{value:.4g}"


def _expanded(name: str) -> tuple[str, ...]:
    return AUTOATTACK if name == "autoattack" else (name,)


def _stage(text: str, name: str, defaults: Defaults) -> AttackSettings:
    matched = re.fullmatch(r"(?P<attack>.+?)(-(?P<count>\d+))?(x(?P<restarts>\d+))?", name)
    attack = matched["attack"] if matched else name
    if matched is None or attack not in ATTACKS:
        raise UserError(f"no attack is called {attack!r}{did_you_mean(attack, [*ATTACKS, 'autoattack'])}")
    kind = ATTACKS[attack]
    steps = int(matched["count"] or (defaults.steps if attack in ("pgd", "cw") else kind.usual))
    if steps < 1 and attack != "pgd":
        raise UserError(f"attack {text!r}: expected at least 1 step, got {steps}")
    if attack == "fgsm" and steps != 1:
        raise UserError(f"attack {text!r}: FGSM is a single step; the iterated one is pgd-{steps}")
    step_size = None
    if attack in ("pgd", "cw"):
        step_size = defaults.eps / 4 if defaults.step_size is None else defaults.step_size
    return AttackSettings(
        attack=attack,
        eps=defaults.eps,
        norm=defaults.norm,
        steps=steps,
        step_size=step_size,
        restarts=int(matched["restarts"] or (defaults.restarts if attack in ("pgd", "cw") else 1)),
        seed=defaults.seed,
        active_set=defaults.active_set,
    )


def _number(text: str, value: str) -> float:
    try:
        return float(Fraction(value))
    except (ValueError, ZeroDivisionError):
        raise UserError(f"attack {text!r}: radius is {value!r}; expected a number such as 0.03 or 8/255") from None
