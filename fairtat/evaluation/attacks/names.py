"""Attacks by name.

An attack's name is ``STAGE[+STAGE...][:NORM][@EPS]`` with ``STAGE = NAME[-COUNT][xRESTARTS]``: "pgd-20", "pgd-50x5",
"cw-20:l2@0.5", "apgd-ce+square-1000". A "+" makes a suite: an image that one stage has fooled is not shown to the next,
and counts as fooled. "autoattack" is the suite apgd-ce + apgd-t + fab-t + square.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from fairtat.errors import UserError, did_you_mean
from fairtat.evaluation.attacks.kinds import ATTACKS, AUTOATTACK
from fairtat.evaluation.attacks.settings import AttackSettings, suite

NORMS = ("linf", "l2")


class Defaults(NamedTuple):
    """What a short name leaves open."""

    eps: float
    norm: str = "linf"
    steps: int = 20
    step_size: float | None = None
    restarts: int = 1
    seed: int = 0
    active_set: bool = True
    amp: str = "none"


def parse_attack(text: str, defaults: Defaults) -> AttackSettings:
    """The settings that a short name means; what it does not say is taken from ``defaults``.

    A step size that is not given is eps / 4 (FGSM: eps). One that is given belongs to ``defaults.eps`` and shrinks
    or grows in proportion to another radius.

    Raises:
        UserError: an unknown attack or norm, or a count or radius that is not a number; it names the nearest attack.
    """
    matched = re.fullmatch(r"(?P<stages>[^:@]+)(:(?P<norm>[^@]*))?(@(?P<eps>.*))?", text.strip().lower())
    if matched is None:
        raise UserError(f"attack {text!r}: expected NAME, NAME@EPS or NAME:NORM@EPS, such as pgd-20@8/255")
    names = [name for part in matched["stages"].split("+") for name in _expanded(part.strip())]
    only = next((kind.norm for name in names if (kind := ATTACKS.get(_parts(name)[0])) and kind.norm), None)
    norm = matched["norm"] or only or defaults.norm
    if norm not in NORMS:
        raise UserError(f"attack {text!r}: norm is {norm!r}{did_you_mean(norm, NORMS)}")
    if only is not None and norm != only:
        raise UserError(f"attack {text!r}: norm is {norm!r}, but one of its attacks works in {only} alone")
    if norm != defaults.norm and not matched["eps"]:
        raise UserError(f"attack {text!r}: a radius in {norm} is needed too, such as {text.strip()}@0.5")
    eps = _number(text, matched["eps"]) if matched["eps"] else defaults.eps
    scale = eps / defaults.eps if defaults.eps else 1.0
    # A step in another norm says nothing about this one.
    step_size = None if defaults.step_size is None or norm != defaults.norm else scale * defaults.step_size
    stages = tuple(_stage(text, name, defaults._replace(eps=eps, norm=norm, step_size=step_size)) for name in names)
    return stages[0] if len(stages) == 1 else suite(stages)


def _expanded(name: str) -> tuple[str, ...]:
    return AUTOATTACK if name == "autoattack" else (name,)


def _stage(text: str, name: str, defaults: Defaults) -> AttackSettings:
    attack, count, restarts = _parts(name)
    if attack not in ATTACKS:
        raise UserError(f"no attack is called {attack!r}{did_you_mean(attack, [*ATTACKS, 'autoattack'])}")
    kind = ATTACKS[attack]
    steps = int(count or (defaults.steps if "steps" in kind.options else kind.steps))
    if steps < kind.least_steps:
        raise UserError(f"attack {text!r}: steps must be at least {kind.least_steps}, got {steps}")
    if kind.single_step and steps != 1:
        raise UserError(f"attack {text!r}: {kind.title} is a single step; the iterated one is pgd-{steps}")
    if restarts and not kind.draws:
        raise UserError(f"attack {text!r}: {kind.title} draws no random numbers, so restarts find the same")
    step_size = None
    if "step_size" in kind.options:
        step_size = defaults.eps / 4 if defaults.step_size is None else defaults.step_size
    return AttackSettings(
        attack=attack,
        eps=defaults.eps,
        norm=defaults.norm,
        steps=steps,
        step_size=step_size,
        restarts=int(restarts or (defaults.restarts if "restarts" in kind.options else 1)),
        seed=defaults.seed,
        active_set=defaults.active_set,
        amp=defaults.amp,
    )


def _parts(name: str) -> tuple[str, str | None, str | None]:
    """The attack, the count and the restarts of a stage's name."""
    matched = re.fullmatch(r"(?P<attack>.+?)(-(?P<count>\d+))?(x(?P<restarts>\d+))?", name)
    return (matched["attack"], matched["count"], matched["restarts"]) if matched else (name, None, None)


def _number(text: str, value: str) -> float:
    try:
        return float(Fraction(value))
    except (ValueError, ZeroDivisionError):
        raise UserError(f"attack {text!r}: radius is {value!r}; expected a number such as 0.03 or 8/255") from None
