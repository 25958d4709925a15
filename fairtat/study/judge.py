"""A study's judge: how its file describes it, and what it asks of every model.

That is one evaluation on all test images, and one on a few of each class where attacks take too long for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from fairtat.data import SEVERITIES
from fairtat.engines import ENGINES
from fairtat.errors import UserError, did_you_mean
from fairtat.evaluation import Defaults, Evaluation, named_attacks, parse_attack
from fairtat.evaluation.attacks.settings import AMP
from fairtat.evaluation.corruptions import check_corruption
from fairtat.evaluation.result import EVALUATION, stored_name
from fairtat.training.config import Number
from fairtat.training.config.sections import AttackConfig

__all__ = [
    "CORRUPTED",
    "Judge",
    "Subset",
    "evaluations_of",
    "known_keys",
    "main_evaluation",
    "next_question",
    "read_judge",
]

CORRUPTED = "corrupted"
"""The mean over all corruptions and severities, as a condition."""


@dataclass(frozen=True)
class Subset:
    """Attacks that take too long for all test images, on ``per_class`` images of each class, evenly spread over it.

    An image that is fooled is left alone, whatever the judge's ``active_set``.
    """

    attacks: tuple[str, ...]
    per_class: int


@dataclass(frozen=True)
class Judge:
    """How every model is judged: the same attacks at the same radius, whatever it was trained at.

    Attributes:
        attacks: as ``fairtat evaluate --attacks``; the first one is "robust".
        eps, norm: radius and norm of attacks that name none.
        active_set, engine, amp: as ``fairtat evaluate --active_set``, ``--engine`` and ``--attack.amp``.
        checkpoint: "last": nothing is chosen, so nothing can be chosen in an arm's favor.
        corruptions, severities: as ``fairtat evaluate --corruptions`` and ``--severities``.
        subset: further attacks, on a part of the images.
    """

    attacks: tuple[str, ...]
    eps: Number
    norm: str
    checkpoint: str = "last"
    active_set: bool = True
    engine: str = "auto"
    amp: str = "none"
    corruptions: tuple[str, ...] = ()
    severities: tuple[int, ...] = SEVERITIES
    subset: Subset | None = None

    @property
    def corrupted(self) -> tuple[str, ...]:
        """Conditions of corrupted images: "fog/3"."""
        return tuple(f"{name}/{severity}" for name in self.corruptions for severity in self.severities)

    @property
    def conditions(self) -> tuple[str, ...]:
        """All by which a model is judged."""
        corrupted = (CORRUPTED, *self.corrupted) if self.corruptions else ()
        return ("clean", "robust", *self.attacks, *corrupted, *(self.subset.attacks if self.subset else ()))


def read_judge(file: Path, values: Mapping[str, Any], training: AttackConfig) -> Judge:
    """The judge as ``file`` describes it; radius and norm are those of ``training`` where it says nothing.

    Raises:
        UserError: a wrong key or value.
    """
    known_keys(file, "judge.", values, [each.name for each in fields(Judge)])
    norm = values.get("norm", training.norm)
    try:
        eps = Number(values.get("eps", training.eps))
        defaults = Defaults(eps=float(eps), norm=norm)
        names = _attacks(values.get("attacks", "pgd-20"), defaults)
        corruptions = tuple(_listed(values.get("corruptions", ())))
        severities = tuple(_severity(each) for each in _listed(values.get("severities", SEVERITIES)))
        for corruption in corruptions:
            for severity in severities:
                check_corruption(corruption, severity)
        if "severities" in values and not corruptions:
            raise UserError("severities without corruptions")
        for key, listed in (("corruptions", corruptions), ("severities", severities)):
            if len({*listed}) < len(listed):  # which would count twice in their mean
                raise UserError(f"{key} names one twice: {', '.join(map(str, listed))}")
        subset = _subset(file, values["subset"], defaults) if "subset" in values else None
    except (ValueError, TypeError, UserError) as error:
        raise UserError(f"{file}: judge: {error}") from error
    if subset is not None and set(subset.attacks) & set(names):
        raise UserError(f"{file}: judge.subset names an attack of all images: {', '.join(subset.attacks)}")
    if not names or values.get("checkpoint", "last") not in ("last", "best"):
        raise UserError(f"{file}: judge is {dict(values)}; expected attacks, and checkpoint last or best")
    rest = {key: values[key] for key in ("checkpoint", "active_set", "engine", "amp") if key in values}
    for key, known in (("active_set", (True, False)), ("engine", ENGINES), ("amp", tuple(AMP))):
        if rest.get(key, known[0]) not in known:
            raise UserError(f"{file}: judge.{key} is {rest[key]!r}; expected one of {', '.join(map(str, known))}")
    return Judge(names, eps, norm, corruptions=corruptions, severities=severities, subset=subset, **rest)


def _listed(value: Any) -> list[Any]:
    """A list, or one written as a text with commas."""
    return [each.strip() for each in value.split(",")] if isinstance(value, str) else list(value or ())


def _severity(value: Any) -> int:
    try:
        return int(value)
    except (ValueError, TypeError):
        raise UserError(f"severities holds {value!r}; expected {SEVERITIES[0]} to {SEVERITIES[-1]}") from None


def _attacks(value: Any, defaults: Defaults) -> tuple[str, ...]:
    """As an evaluation names them: what ``defaults`` say is left out."""
    return tuple(named_attacks(_listed(value), defaults))


def _subset(file: Path, values: object, defaults: Defaults) -> Subset:
    if not isinstance(values, dict):
        raise UserError(f"subset is {values!r}; expected attacks and per_class")
    known_keys(file, "judge.subset.", values, [each.name for each in fields(Subset)])
    names, count = _attacks(values.get("attacks", "autoattack"), defaults), values.get("per_class")
    if not names or isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise UserError(f"subset is {values}; expected attacks, and per_class of 1 or more")
    return Subset(names, count)


def known_keys(file: Path, prefix: str, values: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Refuse keys that mean nothing, ``prefix`` before them."""
    for key in values:
        if key not in keys:
            raise UserError(f"{file}: unknown key {prefix + key!r}{did_you_mean(key, keys)}")


class _Question(NamedTuple):
    """A call of ``fairtat evaluate``."""

    file: str  # that it leaves in RUN/evaluation
    attacks: tuple[str, ...]
    conditions: tuple[str, ...]  # that the file must hold
    active_set: bool
    options: dict[str, str]


def evaluations_of(judge: Judge, epochs: int, folder: Path) -> list[Evaluation] | None:
    """The model's evaluations as the study wants them, if its folder holds them all."""
    found = [_answer(question, judge, epochs, folder) for question in _questions(judge)]
    return None if None in found else [each for each in found if each is not None]


def main_evaluation(folder: Path) -> Evaluation:
    """The one on all test images."""
    return Evaluation.load(folder / EVALUATION / stored_name("test"))


def next_question(judge: Judge, epochs: int, folder: Path) -> tuple[str, ...] | None:
    """Options of ``fairtat evaluate`` for the first evaluation that the model's folder lacks."""
    missing = (each for each in _questions(judge) if _answer(each, judge, epochs, folder) is None)
    first = next(missing, None)
    if first is None:
        return None
    options = {
        "attacks": ",".join(first.attacks),
        "attack.eps": str(judge.eps.plain()),
        "attack.norm": judge.norm,
        "attack.amp": judge.amp,
        "active_set": str(first.active_set).lower(),
        "engine": judge.engine,
        "checkpoint": judge.checkpoint,
        **first.options,
    }
    return tuple(word for name, value in options.items() for word in (f"--{name}", value))


def _questions(judge: Judge) -> Iterator[_Question]:
    corruptions = {}
    if judge.corruptions:
        severities = ",".join(map(str, judge.severities))
        corruptions = {"corruptions": ",".join(judge.corruptions), "severities": severities}
    conditions = (*judge.attacks, *judge.corrupted)
    yield _Question(stored_name("test"), judge.attacks, conditions, judge.active_set, corruptions)
    if judge.subset is not None:
        attacks, count = judge.subset.attacks, judge.subset.per_class
        yield _Question(stored_name("test", count), attacks, attacks, True, {"per_class": str(count)})


def _answer(question: _Question, judge: Judge, epochs: int, folder: Path) -> Evaluation | None:
    try:
        found = Evaluation.load(folder / EVALUATION / question.file)
    except (OSError, ValueError, UserError):
        return None
    if found.samples is None or not set(question.conditions) <= set(found.samples.names):
        return None
    defaults = Defaults(eps=float(judge.eps), norm=judge.norm, active_set=question.active_set, amp=judge.amp)
    wanted = parse_attack(question.attacks[0], defaults)
    fits = found.primary == question.attacks[0] and found.attack == wanted
    last = judge.checkpoint == "best" or found.source.get("epoch") == epochs
    return found if fits and last and found.source.get("checkpoint") == judge.checkpoint else None
