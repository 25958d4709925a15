"""Results added to those that a file already holds: only results for the same question are replaced."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fairtat.evaluation.attacks.settings import AttackSettings, radius
from fairtat.evaluation.budget import BUDGET, budget_finding
from fairtat.evaluation.corruptions import CorruptionSettings
from fairtat.evaluation.metrics.figures import ClassFigures
from fairtat.evaluation.result import CLEAN, WORST, Condition, Evaluation, TargetedSweep
from fairtat.evaluation.samples import Predictions, Samples, worst_of

AGREE = 1e-3
"""How far the clean margins of one model may lie apart, relative to the largest: on another device sums are rounded."""

_ORDER = (CLEAN, "attack", "sweep", WORST, "corruption")


class Added(NamedTuple):
    """An evaluation with the results of an older one.

    Attributes:
        evaluation: both.
        kept: names of the results that only the older one has.
        replaced: names of older results that a new one of the same kind replaced.
        lost: why none of the older results could be kept; empty otherwise.
    """

    evaluation: Evaluation
    kept: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    lost: str = ""


def added_to(path: Path, new: Evaluation) -> Added:
    """``new`` with the results of the evaluation in the file ``path``, where that is of the same model and images.

    A result is replaced by one of the same question: the same kind and settings. The main attack is the new one's. An
    accuracy curve is one question, whatever radii came before in it; so is a targeted sweep, of which there is one.
    """
    try:
        older = Evaluation.load(path)
    except FileNotFoundError:
        return Added(new)
    except (OSError, ValueError) as error:
        return Added(new, lost=f"the earlier results cannot be read ({error})")
    other = _otherwise(older, new)
    return Added(new, lost=other) if other else _merged(older, new)


def _otherwise(older: Evaluation, new: Evaluation) -> str:
    """Why two evaluations cannot share a file; empty if they can."""
    was, now = _samples(older), _samples(new)
    if older.class_names != new.class_names:
        return "the earlier results are of other classes"
    if not (np.array_equal(was.sample_ids, now.sample_ids) and np.array_equal(was.label, now.label)):
        return "the earlier results are of other images"
    other_model = "the earlier results are of other weights, settings or code of the model"
    fingerprints = {each.source["fingerprint"] for each in (older, new) if "fingerprint" in each.source}
    if len(fingerprints) > 1:
        return other_model
    # Finite on both sides or on none, and the same number up to rounding.
    a, b = was.margin[was.row(CLEAN)], now.margin[now.row(CLEAN)]
    largest = float(np.nanmax(np.abs(b), initial=0.0, where=np.isfinite(b)))
    return "" if np.allclose(a, b, rtol=0, atol=AGREE * largest, equal_nan=True) else other_model


def _merged(older: Evaluation, new: Evaluation) -> Added:
    had = {_question(condition) for condition in older.conditions if condition.name not in _partly(older)}
    # What a budget has cut short never replaces what is complete.
    taken = [each for each in new.conditions if each.name not in _partly(new) or _question(each) not in had]
    asked = {_question(condition) for condition in taken}
    conditions = {condition.name: condition for condition in taken if condition.kind != WORST}
    outcomes = {name: _outcome(new, name) for name in conditions}
    kept: dict[str, str] = {}  # the older name to its current one
    for condition in older.conditions:
        if condition.kind != WORST and _question(condition) not in asked:
            name = _free_name(condition, conditions)
            kept[condition.name] = name
            conditions[name] = replace(condition, name=name)
            outcomes[name] = _outcome(older, condition.name)
    primary = new.primary
    if primary in kept.values() or not new.attacks:  # cut short where the older one is complete, or not asked at all
        primary = kept.get(primary if new.attacks else older.primary, primary)
    label = _samples(new).label
    alike = _alike(conditions, primary)
    if len(alike) > 1:
        outcomes[WORST] = worst_of(label, [outcomes[name] for name in (CLEAN, *alike)])
        figures = ClassFigures.of(label, outcomes[WORST].pred, new.num_classes)
        conditions[WORST] = Condition(WORST, WORST, None, figures)
    ordered = sorted(conditions.values(), key=lambda condition: _ORDER.index(condition.kind))
    samples = Samples.of(_samples(new).sample_ids, label, {each.name: outcomes[each.name] for each in ordered}, primary)
    targeted, source = _targeted(older, new)
    if targeted is not None:
        samples = replace(samples, reached=source.reached, target_margin=source.target_margin)
    if source is not _samples(new) and targeted is not None:
        kept["targeted"] = f"targeted {targeted.settings.name}"
    untried = (
        *(each for each in new.untried if not each.kept or each.condition not in kept.values()),
        *(
            replace(each, condition=kept[each.condition])
            for each in older.untried
            if each.kept and each.condition in kept
        ),
    )
    told = {finding.id for finding in new.findings} | {BUDGET}
    findings = (*(each for each in new.findings if each.id != BUDGET), *budget_finding(untried))
    merged = replace(
        new,
        conditions=tuple(ordered),
        primary=primary,
        samples=samples,
        targeted=targeted,
        findings=(*findings, *(finding for finding in older.findings if finding.id not in told)),
        untried=untried,
    )
    sweeps = [each.targeted for each in (older, new) if each.targeted is not None]
    gone = sweeps[0] if len(sweeps) == 2 and sweeps[0].settings != sweeps[1].settings else None
    replaced = () if gone is None else (f"targeted {gone.settings.name} ({gone.settings})",)
    return Added(merged, kept=tuple(kept.values()), replaced=replaced)


def _partly(evaluation: Evaluation) -> set[str]:
    """The conditions that are upper bounds."""
    return {each.condition for each in evaluation.untried if each.kept}


def _targeted(older: Evaluation, new: Evaluation) -> tuple[TargetedSweep | None, Samples]:
    """The targeted sweep, and whose samples belong to it."""
    return (older.targeted, _samples(older)) if new.targeted is None else (new.targeted, _samples(new))


def _question(condition: Condition) -> tuple[object, ...]:
    settings = condition.settings
    if condition.kind == "sweep":
        assert isinstance(settings, AttackSettings)
        return condition.kind, settings.name, settings.norm, settings.eps, settings.seed, settings.active_set
    return condition.kind, settings


def _free_name(condition: Condition, taken: Container[str]) -> str:
    """The condition's own name, or one that tells it from another of that name."""
    settings = condition.settings
    names = [condition.name]
    if isinstance(settings, AttackSettings) and condition.kind == "attack":
        names += [f"{settings.name}@{radius(settings.eps)}", f"{settings.name}:{settings.norm}@{radius(settings.eps)}"]
    if isinstance(settings, (AttackSettings, CorruptionSettings)):
        names.append(f"{names[-1]} (seed {settings.seed})")
    names += [f"{names[-1]} #{k}" for k in range(2, 1000)]
    return next(name for name in names if name not in taken)


def _alike(conditions: dict[str, Condition], primary: str) -> list[str]:
    """The attacks with the norm and radius of the main one."""
    main = conditions[primary].settings
    return [
        name
        for name, condition in conditions.items()
        if condition.kind == "attack"
        and isinstance(main, AttackSettings)
        and isinstance(condition.settings, AttackSettings)
        and (condition.settings.norm, condition.settings.eps) == (main.norm, main.eps)
    ]


def _outcome(evaluation: Evaluation, name: str) -> Predictions:
    samples = _samples(evaluation)
    row = samples.row(name)
    return Predictions(samples.pred[row], samples.margin[row], samples.attacked[row])


def _samples(evaluation: Evaluation) -> Samples:
    if evaluation.samples is None:
        raise ValueError("results can only be added to others with the per-sample outcomes of both")
    return evaluation.samples
