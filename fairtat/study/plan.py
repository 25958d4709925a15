"""A study's file: its arms, seeds, judge and declared contrasts, checked before anything is trained."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fairtat.errors import UserError, did_you_mean
from fairtat.evaluation.metrics.bootstrap import FIGURES
from fairtat.study.judge import Judge, known_keys, read_judge
from fairtat.training.api import CHANGEABLE
from fairtat.training.config import Number, TrainConfig, from_dict, leaves, load_yaml, stacked

__all__ = ["EQUAL", "Arm", "Cell", "Contrast", "Study", "load_study", "settings_of"]

EQUAL = {
    "clean accuracy": "at equal clean average accuracy, along the curves of both arms",
    "radius": "at equal mean radius of training, along the curves of both arms",
    "factor": "at the same multiple of the radius, averaged over the multiples that both arms have",
}
"""What a contrast holds fixed."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_KEYS = ("name", "title", "configs", "settings", "seeds", "judge", "arms", "contrasts", "margin")


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Attributes:
        name, title: for files, and for people.
        factors: multiples of the radius and step size; more than one make the arm a curve.
        config: settings at factor 1 and the study's first seed.
    """

    name: str
    title: str
    factors: tuple[float, ...]
    config: TrainConfig


@dataclass(frozen=True)
class Contrast:
    """A declared difference: ``arm`` less ``against`` in ``figure``, with ``equal`` held fixed.

    Attributes:
        figure: a condition of the judge ("clean", "robust", "corrupted", an attack, ...) and a figure of `FIGURES`:
            "robust worst".
        equal: a key of `EQUAL`.
    """

    arm: str
    against: str
    figure: str
    equal: str

    @property
    def condition(self) -> str:
        return self.figure.rpartition(" ")[0]

    @property
    def measure(self) -> str:
        return self.figure.rpartition(" ")[2]


@dataclass(frozen=True, eq=False)
class Cell:
    """One model: an arm at a factor with a seed."""

    arm: Arm
    factor: float
    seed: int
    config: TrainConfig

    @property
    def name(self) -> str:
        return f"{self.arm.name}@{self.factor:g}-{self.seed}"


@dataclass(frozen=True)
class Study:
    """A study as its file describes it."""

    name: str
    title: str
    path: Path
    seeds: tuple[int, ...]
    judge: Judge
    arms: tuple[Arm, ...]
    contrasts: tuple[Contrast, ...]
    margin: float  # of equivalence, in points

    def cells(self) -> list[Cell]:
        """Every model, seed by seed, so that pairs of one seed are complete as early as can be."""
        return [
            Cell(arm, factor, seed, _cell_config(arm, factor, seed))
            for seed in self.seeds
            for arm in self.arms
            for factor in arm.factors
        ]


def load_study(path: str | Path) -> Study:
    """Read and check a study's file; the files it names lie relative to it.

    Raises:
        UserError: it cannot be read, or a key or value is wrong; the message names it and what was expected.
    """
    file = Path(path)
    values = load_yaml(file)
    known_keys(file, "", values, _KEYS)
    base = _layers(file, "", values)
    seeds = _seeds(file, values.get("seeds", 5))
    arms = _mapping(file, "arms", values.get("arms"))
    made = tuple(_arm(file, name, arm, base, seeds[0]) for name, arm in arms.items())
    judge = read_judge(file, _mapping(file, "judge", values.get("judge", {"attacks": "pgd-20"})), made[0].config.attack)
    contrasts = values.get("contrasts", [])
    if not isinstance(contrasts, list):
        raise UserError(f"{file}: contrasts is {contrasts!r}; expected a list, the primary one first")
    name = values.get("name", file.stem)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserError(f"{file}: name is {name!r}; expected letters, digits and .-_+")
    margin = values.get("margin", 1.0)
    if isinstance(margin, bool) or not isinstance(margin, (int, float)) or not 0 < margin < 100:
        raise UserError(f"{file}: margin is {margin!r}; expected points of accuracy between 0 and 100")
    return Study(
        name=name,
        title=str(values.get("title", name)),
        path=file,
        seeds=seeds,
        judge=judge,
        arms=made,
        contrasts=tuple(_contrast(file, number, each, made, judge) for number, each in enumerate(contrasts)),
        margin=float(margin),
    )


def settings_of(config: TrainConfig) -> dict[str, Any]:
    """All that decides what is trained, as JSON values; not the seed, nor where and how fast it is computed."""
    values = {key: value for key, value in leaves(config) if key not in CHANGEABLE | {"output", "seed"}}
    return dict(json.loads(json.dumps(values)))


def _cell_config(arm: Arm, factor: float, seed: int) -> TrainConfig:
    attack = arm.config.attack
    if factor != 1:
        attack = replace(attack, eps=Number(attack.eps * factor), step_size=Number(attack.step_size * factor))
    return replace(arm.config, attack=attack, seed=seed, output=None)


def _mapping(file: Path, key: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict) or not value or not all(isinstance(name, str) for name in value):
        raise UserError(f"{file}: {key} is {value!r}; expected keys and values")
    return value


def _layers(file: Path, prefix: str, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The contents of ``configs`` and then ``settings``; what comes later counts."""
    configs = values.get("configs", [])
    configs = [configs] if isinstance(configs, str) else configs
    if not isinstance(configs, list) or not all(isinstance(name, str) for name in configs):
        raise UserError(f"{file}: {prefix}configs is {configs!r}; expected a file or a list of files")
    layers = []
    for name in configs:
        layer = load_yaml(file.parent / name)
        from_dict(layer, source=str(file.parent / name))  # so that a mistake is told with its own file's name
        layers.append(layer)
    settings = values.get("settings") or {}
    if not isinstance(settings, dict):
        raise UserError(f"{file}: {prefix}settings is {settings!r}; expected settings as `fairtat train` takes them")
    own = next((key for key in ("seed", "output") if key in settings), None)
    if own is not None:
        raise UserError(f"{file}: {prefix}settings has {own}, which the study chooses for each model")
    return [*layers, settings]


def _seeds(file: Path, value: object) -> tuple[int, ...]:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return tuple(range(value))
    whole = isinstance(value, list) and all(isinstance(seed, int) and not isinstance(seed, bool) for seed in value)
    if not whole or not value or len(set(value)) < len(value):  # type: ignore[arg-type, call-overload]
        raise UserError(f"{file}: seeds is {value!r}; expected how many, or a list of different whole numbers")
    return tuple(value)  # type: ignore[arg-type]


def _arm(file: Path, name: str, value: object, base: list[dict[str, Any]], seed: int) -> Arm:
    if not _NAME.fullmatch(name):
        raise UserError(f"{file}: arms: {name!r} is not a name; expected letters, digits and .-_+")
    values = {} if value is None else value
    if not isinstance(values, dict):
        raise UserError(f"{file}: arms.{name} is {value!r}; expected keys and values")
    prefix = f"arms.{name}."
    known_keys(file, prefix, values, ("title", "configs", "settings", "eps_factors"))
    merged = stacked([*base, *_layers(file, prefix, values)])
    config = from_dict({**merged, "seed": seed}, source=f"{file}, arm {name}")
    factors = values.get("eps_factors", [1])
    if not isinstance(factors, list) or not factors:
        raise UserError(f"{file}: {prefix}eps_factors is {factors!r}; expected a list of numbers")
    numbers = []
    for factor in factors:
        try:
            numbers.append(float(Number(factor)))
        except (ValueError, TypeError):
            numbers.append(math.nan)
        if isinstance(factor, bool) or not 0 < numbers[-1] < math.inf:
            raise UserError(f"{file}: {prefix}eps_factors holds {factor!r}; expected numbers above 0")
    if len(set(numbers)) < len(numbers):
        raise UserError(f"{file}: {prefix}eps_factors holds a number twice: {factors}")
    return Arm(name, str(values.get("title", name)), tuple(sorted(numbers)), config)


def _contrast(file: Path, number: int, values: object, arms: Sequence[Arm], judge: Judge) -> Contrast:
    where = f"contrasts, number {number + 1}"
    if not isinstance(values, dict):
        raise UserError(f"{file}: {where} is {values!r}; expected arm, against, figure and equal")
    known_keys(file, f"{where}: ", values, ("arm", "against", "figure", "equal"))
    missing = [key for key in ("arm", "against") if key not in values]
    if missing:
        raise UserError(f"{file}: {where} names no {missing[0]}")
    by_name = {arm.name: arm for arm in arms}
    for key in ("arm", "against"):
        if values[key] not in by_name:
            raise UserError(
                f"{file}: {where}: no arm is called {values[key]!r}{did_you_mean(str(values[key]), by_name)}"
            )
    contrast = Contrast(
        values["arm"], values["against"], str(values.get("figure", "robust worst")), values.get("equal", "factor")
    )
    conditions = judge.conditions
    if contrast.condition not in conditions or contrast.measure not in FIGURES:
        raise UserError(
            f"{file}: {where}: figure is {contrast.figure!r}; expected one of {', '.join(conditions)} "
            f"and one of {', '.join(FIGURES)}, such as 'robust worst'"
        )
    if contrast.equal not in EQUAL:
        raise UserError(f"{file}: {where}: equal is {contrast.equal!r}{did_you_mean(str(contrast.equal), EQUAL)}")
    pair = [by_name[contrast.arm], by_name[contrast.against]]
    if contrast.equal == "factor" and not set(pair[0].factors) & set(pair[1].factors):
        raise UserError(f"{file}: {where}: the arms have no factor in common")
    if contrast.equal != "factor" and max(len(arm.factors) for arm in pair) < 2:
        raise UserError(f"{file}: {where}: equal {contrast.equal} needs a curve: give one arm several eps_factors")
    return contrast
