"""autoattack: the standard suite, each attack on the images that those before it left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from typing_extensions import Unpack

from fairtat.attacks.autoattack.arena import arena
from fairtat.attacks.autoattack.calls import CallKeywords, named, shows_call_options
from fairtat.attacks.autoattack.pool import Outcome
from fairtat.attacks.autoattack.stages import APGD, FAB, Square, Stage, carry_out
from fairtat.checks import check_choice
from fairtat.engines.model.state import Model

VERSIONS = ("standard", "plus", "rand", "custom")
CLEAN = "clean"

_STANDARD: dict[str, Stage] = {
    "apgd-ce": APGD("ce"),
    "apgd-t": APGD("dlr-targeted"),
    "fab-t": FAB(targeted=True),
    "square": Square(),
}
_PLUS: dict[str, Stage] = {
    "apgd-ce": APGD("ce", n_restarts=5),
    "apgd-dlr": APGD("dlr", n_restarts=5),
    "fab": FAB(n_restarts=5),
    "square": Square(),
    "apgd-t": APGD("dlr-targeted"),
    "fab-t": FAB(targeted=True),
}
_RAND: dict[str, Stage] = {"apgd-ce": APGD("ce", eot_iter=20), "apgd-dlr": APGD("dlr", eot_iter=20)}
ATTACKS: Mapping[str, Stage] = MappingProxyType(_PLUS)
"""Every attack by name, with the settings that it has in a custom list."""
STAGES: Mapping[str, Mapping[str, Stage]] = MappingProxyType({"standard": _STANDARD, "plus": _PLUS, "rand": _RAND})


@dataclass(frozen=True, eq=False)
class AutoAttackFlags:
    """What the suite found, per image. ``attacks`` names its stages, of which the first is "clean": no attack."""

    robust: Tensor  # (N,) bool: right as it is, and no attack found anything
    found_by: Tensor  # (N,) int64: the place in ``attacks`` of the one that fooled it; -1: robust
    pred: Tensor  # (N,) int64: the model's prediction on x_adv
    attacks: tuple[str, ...]
    accuracy: tuple[float, ...]  # after each of ``attacks``: the share that is still robust
    notes: tuple[str, ...]  # what was done otherwise than in the papers, because of few classes

    @property
    def robust_accuracy(self) -> float:
        """After all attacks; NaN for no images."""
        return self.accuracy[-1]


@shows_call_options
def autoattack(
    model: Model,
    x: Tensor,  # (N, ...)
    y: Tensor,  # (N,)
    *,
    eps: float | Tensor = 8 / 255,  # scalar or (N,)
    norm: str = "linf",
    version: str = "standard",
    attacks: Sequence[str | tuple[str, Stage]] | None = None,
    **options: Unpack[CallKeywords],
) -> tuple[Tensor, AutoAttackFlags]:
    """Judge a classifier by AutoAttack: an ensemble of attacks without parameters to tune.

    ``standard``: APGD-CE, APGD-T (9 targets), FAB-T (9 targets), Square (5,000 queries). ``plus``: APGD-CE and
    APGD-DLR with 5 restarts each, FAB with 5, Square, APGD-T, FAB-T. ``rand``, for models that draw random numbers:
    APGD-CE and APGD-DLR with 20 gradients per step. Each attack sees only the images that are still classified right.

    Args:
        model, x, y, eps, norm, options: As in :func:`fairtat.attacks.apgd`. The default ``chunk_size`` is 250.
        version: "standard", "plus", "rand" or "custom".
        attacks: For "custom": names ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"), which have the
            settings of "plus", or pairs of a name and a stage, such as ``("square", Square(n_queries=1000))``.

    Returns:
        (x_adv, flags): x_adv like x, adversarial where one was found, else the image itself; and
        :class:`AutoAttackFlags`.

    Raises:
        ValueError, TypeError, RuntimeError: as :func:`fairtat.fast_pgd`.

    Source: Croce and Hein 2020, arXiv:2003.01690.
    """
    stages = _stages(version, attacks)
    given = named(options)
    if given["chunk_size"] is None:
        given["chunk_size"] = 250
    with arena(model, x, y, eps=eps, norm=norm, **given) as here:
        outcome = Outcome(here)
        found_by = torch.where(outcome.reached, 0, -1)
        accuracy, notes = [_share(~outcome.reached)], []
        for number, (name, stage) in enumerate(stages, 1):
            carry_out(stage, here, outcome)
            found_by = torch.where(outcome.reached & (found_by < 0), number, found_by)
            accuracy.append(_share(~outcome.reached))
            notes += [f"{name}: {note}" for note in stage.notes(here.classes, target_given=here.target is not None)]
    flags = AutoAttackFlags(
        robust=~outcome.reached,
        found_by=found_by,
        pred=outcome.logits.argmax(1),
        attacks=(CLEAN, *(name for name, _ in stages)),
        accuracy=tuple(accuracy),
        notes=tuple(notes),
    )
    return outcome.x_adv, flags


def _share(flags: Tensor) -> float:
    return float(flags.double().mean())


def _stages(version: str, attacks: Sequence[str | tuple[str, Stage]] | None) -> list[tuple[str, Stage]]:
    check_choice("version", version, VERSIONS)
    if version != "custom":
        if attacks is not None:
            raise ValueError(f"attacks goes with version='custom' and no other, got {attacks!r} with {version!r}")
        return list(STAGES[version].items())
    if attacks is None or isinstance(attacks, str):
        raise ValueError(f"attacks must be a list of names with version='custom', got {attacks!r}")
    stages = []
    for each in attacks:
        name, stage = (each, None) if isinstance(each, str) else each
        if stage is None:
            check_choice("attacks", name, list(ATTACKS))
            stage = ATTACKS[name]
        stages.append((name, stage))
    return stages
