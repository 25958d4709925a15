"""One attack with every setting that its answer depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from fairtat.checks import check_count, real
from fairtat.evaluation.attacks.kinds import ATTACKS, AUTOATTACK

SUITE = "suite"

AMP: Mapping[str, torch.dtype | None] = {"none": None, "bf16": torch.bfloat16}
"""Precisions of an attack's passes, by name."""


@dataclass(frozen=True)
class AttackSettings:
    """One attack, or a suite of ``stages``; equal settings ask the same question of two models.

    Attributes:
        eps, step_size: in pixel units; step_size is None if the attack chooses its own.
        steps: gradient steps (square: queries; noise: draws).
        active_set: whether an image that is fooled already is left alone: one that the model already gets wrong, one
            that a step or an earlier stage has fooled. Without it every image is attacked for all steps, as the loops
            of most papers do, and the last step is what counts.
        stages: of a suite, in order; else empty.
        amp: a key of `AMP`, the precision in which the attack looks. Every verdict is float32's.
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
    amp: str = "none"

    def __post_init__(self) -> None:
        if self.attack != SUITE and self.attack not in ATTACKS:
            raise ValueError(f"no attack is called {self.attack!r}")
        if self.amp not in AMP:
            raise ValueError(f"amp is {self.amp!r}; expected one of {', '.join(AMP)}")
        for name, value in (("eps", self.eps), ("step_size", self.step_size or 0.0)):
            real(name, value, low=0.0)
        for name, count, least in (("steps", self.steps, 0), ("restarts", self.restarts, 1)):
            check_count(name, count, least)

    def __str__(self) -> str:
        parts = [self.title, self.norm, f"eps {radius(self.eps)}"]
        if self.step_size is not None and "step_size" in ATTACKS[self.attack].options:
            parts.append(f"step {radius(self.step_size)}")
        if self.restarts != 1:
            parts.append(f"{self.restarts} restarts")
        if smaller := sorted({stage.eps for stage in self.stages} - {self.eps}):
            parts.append(f"after {', '.join(map(radius, smaller))}")
        if self.amp != "none":
            parts.append(f"{self.amp} gradients")
        return ", ".join(parts)

    @property
    def name(self) -> str:
        """Its short name without norm and radius: "pgd-20", "autoattack", "fgsm+cw-20"."""
        if self.attack == SUITE:
            names = tuple(stage.name for stage in self.stages if stage.eps == self.eps)
            return "autoattack" if names == AUTOATTACK else "+".join(names)
        named = ATTACKS[self.attack].with_count(self.attack, self.steps)
        return named if self.restarts == 1 else f"{named}x{self.restarts}"

    @property
    def title(self) -> str:
        """The name as the literature writes it: "PGD-20", "AutoAttack"."""
        if self.attack == SUITE:
            if self.name == "autoattack":
                return "AutoAttack"
            return " + ".join(stage.title for stage in self.stages if stage.eps == self.eps)
        kind = ATTACKS[self.attack]
        return kind.with_count(kind.title, self.steps)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = asdict(self)
        values["stages"] = [stage.to_dict() for stage in self.stages]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AttackSettings:
        """From `to_dict`; ``TypeError`` on missing or unknown fields."""
        return cls(**{**values, "stages": tuple(cls.from_dict(stage) for stage in values["stages"])})


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
        amp=last.amp,
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
    """The stages of a suite; a single attack is its own only stage."""
    return settings.stages or (settings,)


def radius(value: float) -> str:
    """A radius as the field writes it: 8/255 where it is one, else a decimal."""
    levels = 255 * value
    if float(f"{value:.2g}") == value:
        return f"{value:.2g}"
    return f"{round(levels)}/255" if round(levels) and abs(levels - round(levels)) < 1e-6 else f"{value:.4g}"
