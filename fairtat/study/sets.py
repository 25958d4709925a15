"""Sets of runs that differ in their seeds, compared as a study compares arms: seeds and images resampled together."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from fairtat.errors import UserError
from fairtat.evaluation import Evaluation
from fairtat.evaluation.metrics.bootstrap import FIGURES
from fairtat.study.contrasts import DRAWS, Outcome, contrast_outcomes
from fairtat.study.judge import Judge
from fairtat.study.plan import Arm, Contrast, Study, settings_of
from fairtat.study.results import Entry
from fairtat.training.config import Number, TrainConfig

__all__ = ["MARGIN", "RunSets", "outcome_dict", "set_outcomes", "sets_of"]

MARGIN = 1.0
"""Points within which two sets count as equivalent."""


@dataclass(frozen=True, eq=False)
class RunSets:
    """Evaluated runs as the models of a study without a file.

    Attributes:
        study: an arm for each set, the baseline first, and the contrasts.
        class_names, labels: of the images (N,) that all were judged on.
        models: every run's outcome.
        subset: none: all runs were judged on all images.
    """

    study: Study
    class_names: tuple[str, ...]
    labels: np.ndarray
    models: Sequence[Entry]
    subset: np.ndarray | None = None

    def entries(self) -> list[Entry]:
        """The models, as `Results.entries` gives them."""
        return list(self.models)


def sets_of(configs: Mapping[str, TrainConfig]) -> dict[str, list[str]]:
    """Runs with equal settings but for the seed, as sets in the order in which they come, named by what their runs have
    in common.

    Raises:
        UserError: fewer than two sets, two runs of one set with one seed, or no seed that all sets have.
    """
    sets: list[tuple[dict[str, Any], list[str]]] = []
    for name, config in configs.items():
        settings = settings_of(config)
        members = next((members for known, members in sets if known == settings), None)
        if members is None:
            sets.append((settings, members := []))
        twin = next((other for other in members if configs[other].seed == config.seed), None)
        if twin is not None:
            raise UserError(f"{twin} and {name} have the same settings and seed {config.seed}; expected other seeds")
        members.append(name)
    if len(sets) < 2:
        raise UserError(f"all {len(configs)} runs have the same settings but for the seed; expected two sets or more")
    found = dict(zip(_titles([members for _, members in sets]), [members for _, members in sets], strict=True))
    seeds = [{configs[name].seed for name in members} for members in found.values()]
    if not set.intersection(*seeds):
        listed = "; ".join(f"{name}: {sorted(of)}" for name, of in zip(found, seeds, strict=True))
        raise UserError(f"the sets have no seed in common, so there are no pairs ({listed})")
    return found


def set_outcomes(
    sets: Mapping[str, Sequence[tuple[TrainConfig, Evaluation]]],
    figures: Sequence[str],
    *,
    margin: float = MARGIN,
    draws: int = DRAWS,
    seed: int = 0,
) -> tuple[RunSets, list[Outcome]]:
    """Every set against the first one in every figure: `contrast_outcomes` of runs paired by their seeds.

    Args:
        sets: by name, each run's configuration and evaluation, all on the same images.
        figures: a condition and a figure of `FIGURES` each, such as "robust worst"; the first one is primary.
        margin: points within which two sets count as equivalent.

    Raises:
        UserError: an unknown figure.
    """
    first = next(iter(sets.values()))[0][1]
    for figure in figures:
        condition, _, measure = figure.rpartition(" ")
        if condition not in ("robust", *first.names) or measure not in FIGURES:
            raise UserError(
                f"figure is {figure!r}; expected one of {', '.join(('robust', *first.names))} and one of "
                f"{', '.join(FIGURES)}, such as 'robust worst'"
            )
    arms = tuple(Arm(_identifier(k), name, (1.0,), runs[0][0]) for k, (name, runs) in enumerate(sets.items()))
    contrasts = [Contrast(arm.name, arms[0].name, figure, "factor") for arm in arms[1:] for figure in figures]
    seeds = dict.fromkeys(config.seed for runs in sets.values() for config, _ in runs)
    attack = first.attack
    study = Study(
        name="sets",
        title="sets of runs",
        path=Path("sets"),
        seeds=tuple(seeds),
        judge=Judge((first.primary,), Number(attack.eps), attack.norm),
        arms=arms,
        contrasts=tuple(contrasts),
        margin=margin,
    )
    models = [
        _entry(arm, config, evaluation, figures)
        for arm, runs in zip(arms, sets.values(), strict=True)
        for config, evaluation in runs
    ]
    assert first.samples is not None
    found = RunSets(study, first.class_names, first.samples.label, models)
    return found, contrast_outcomes(found, draws=draws, seed=seed)


def outcome_dict(outcome: Outcome, study: Study) -> dict[str, Any]:
    """A contrast's outcome as plain JSON values; differences in points."""
    titles = {arm.name: arm.title for arm in study.arms}
    values = {key: value for key, value in vars(outcome).items() if key != "contrast"}
    return {
        "set": titles[outcome.contrast.arm],
        "against": titles[outcome.contrast.against],
        "figure": outcome.contrast.figure,
        **values,
        "interval": None if outcome.interval is None else list(outcome.interval),
        "clear": outcome.clear,
    }


def _identifier(number: int) -> str:
    return f"set{number}"


def _entry(arm: Arm, config: TrainConfig, evaluation: Evaluation, figures: Sequence[str]) -> Entry:
    assert evaluation.samples is not None
    conditions = {"clean", "robust", *(figure.rpartition(" ")[0] for figure in figures)}
    correct = {name: evaluation.samples.correct(name) for name in conditions}
    return Entry(arm.name, 1.0, config.seed, correct, float(config.attack.eps), {})


def _common(names: Sequence[str]) -> str:
    """What all names begin with."""
    pairs = zip(min(names), max(names), strict=False)
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _titles(sets: Sequence[Sequence[str]]) -> list[str]:
    """What the names of each set begin with, without the number at the end; a number where that does not tell apart."""
    titles = [re.sub(r"[-_.@/]*(seed)?[-_.@]*\d*$", "", _common(names)) for names in sets]
    titles = [title or names[0] for title, names in zip(titles, sets, strict=True)]
    return [title if titles.count(title) == 1 else f"{title} #{k + 1}" for k, title in enumerate(titles)]
