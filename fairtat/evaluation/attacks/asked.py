"""The attacks that an evaluation is asked for: by name, at several radii, towards a target."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fairtat.errors import UserError
from fairtat.evaluation.attacks.kinds import ATTACKS, attacks_with
from fairtat.evaluation.attacks.names import Defaults, parse_attack
from fairtat.evaluation.attacks.pooled import stage_of
from fairtat.evaluation.attacks.settings import SUITE, AttackSettings, at_eps, radius, stages_of, suite
from fairtat.evaluation.budget import strongest_first
from fairtat.evaluation.checks.finding import Finding

__all__ = ["eps_sweep_of", "few_classes", "named_attacks", "targeted_attack"]


def named_attacks(
    attacks: Sequence[str | AttackSettings], defaults: Defaults, *, in_time: bool = False
) -> dict[str, AttackSettings]:
    """Attacks by the names that an evaluation gives them, which leave out what ``defaults`` say: "pgd-20".

    Args:
        in_time: the stages of AutoAttack in the order that finds most in a short time.

    Raises:
        UserError: a name that `parse_attack` refuses.
        ValueError: two attacks with one name.
    """
    if isinstance(attacks, str):
        raise TypeError(f"attacks must be a sequence of names, got the string {attacks!r}; did you mean [{attacks!r}]?")
    named: dict[str, AttackSettings] = {}
    for attack in attacks:
        settings = parse_attack(attack, defaults) if isinstance(attack, str) else attack
        settings = strongest_first(settings) if in_time else settings
        name = settings.name
        if settings.norm != defaults.norm:
            name += f":{settings.norm}"
        if settings.norm != defaults.norm or settings.eps != defaults.eps:
            name += f"@{radius(settings.eps)}"
        if named.setdefault(name, settings) != settings:
            raise ValueError(f"attacks: {name!r} is asked for twice with different settings ({settings})")
    return named


def eps_sweep_of(main: AttackSettings | None, radii: Sequence[float]) -> dict[str, AttackSettings]:
    """The main attack at each radius, by name.

    Raises:
        ValueError: there are radii and no attack.
    """
    if not radii:
        return {}
    if main is None:
        raise ValueError("eps_sweep needs an attack: attacks is empty")
    named: dict[str, AttackSettings] = {}
    stages: tuple[AttackSettings, ...] = ()
    for eps in sorted({float(value) for value in radii}):
        # Each radius is a suite that begins with the smaller ones: what they fooled is not attacked again.
        stages = (*stages, *stages_of(at_eps(main, eps)))
        named[f"{main.name}@{radius(eps)}"] = stages[0] if len(stages) == 1 else suite(stages)
    return named


def targeted_attack(targeted: bool | str, defaults: Defaults) -> AttackSettings | None:
    """The attack that moves images towards every other class: True means "pgd", False none.

    Raises:
        UserError: an attack that takes no target.
    """
    if targeted is False:
        return None
    settings = parse_attack("pgd" if targeted is True else targeted, defaults)
    if settings.attack == SUITE or "target" not in ATTACKS[settings.attack].options:
        raise UserError(f"targeted is {targeted!r}; the attacks that take a target are {attacks_with('target')}")
    return settings


def few_classes(asked: Iterable[AttackSettings], num_classes: int) -> list[Finding]:
    """What attacks do otherwise than in the papers, as a finding.

    Raises:
        ValueError: there is no other class.
    """
    stages = {stage.attack: stage for settings in asked for stage in stages_of(settings)}
    if stages and num_classes < 2:
        name = next(iter(stages.values())).name
        raise ValueError(f"attack {name!r} needs at least 2 classes, but the model has {num_classes}")
    pooled = [settings for settings in stages.values() if ATTACKS[settings.attack].pooled]
    said = [
        f"{ATTACKS[settings.attack].title}: {note}"
        for settings in pooled
        for note in stage_of(settings).notes(num_classes, target_given=False)
    ]
    return [Finding("attacks:few-classes", "info", "; ".join(said) + ".")] if said else []
