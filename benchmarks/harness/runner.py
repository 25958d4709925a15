"""Runs a case: builds the contestants, proves that they agree, times them, and says what came out."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from harness.case import Case, CaseSpec, Entrant, Settings, Target
from harness.equality import Mismatch
from harness.timing import Measurement, Spread, measure


@dataclass(frozen=True)
class Effort:
    """How long to measure a case."""

    budget: float
    min_rounds: int
    max_rounds: int
    sample_seconds: float


def run_case(spec: CaseSpec, settings: Settings, effort: Effort, skip: Sequence[str] = ()) -> dict[str, Any]:
    """One case as a JSON object.

    Raises:
        SystemExit: two contestants disagree; the message names the case, the contestant and the difference.
    """
    torch.compiler.reset()  # each case compiles for itself, and must not run into another's recompilation limit
    case = spec.build(settings)
    entrants, missing = enter(case, skip)
    if case.baseline not in entrants:
        raise SystemExit(f"{spec.name}: the baseline {case.baseline!r} must take part; drop the --skip that matches it")
    facts = prove_equal(spec.name, case, entrants)
    timed = measure(
        {name: entrant.run for name, entrant in entrants.items()},
        budget=effort.budget,
        min_rounds=effort.min_rounds,
        max_rounds=effort.max_rounds,
        sample_seconds=effort.sample_seconds,
    )
    rows = []
    for contestant in case.contestants:
        row: dict[str, Any] = {"name": contestant.name, "role": contestant.role}
        if contestant.note:
            row["note"] = contestant.note
        if contestant.name in missing:
            row["missing"] = missing[contestant.name]
        elif contestant.name in entrants:
            row |= _timing(contestant.name, case, timed)
            row |= facts.get(contestant.name, {})
        else:
            continue
        rows.append(row)
    result: dict[str, Any] = {
        "name": spec.name,
        "headline": spec.headline,
        "baseline": case.baseline,
        "equality": case.rule,
        "rounds": timed.rounds,
        "contestants": rows,
        "targets": [verdict for target in case.targets if (verdict := judge(target, timed)) is not None],
    }
    if case.bytes_moved is not None:
        result["bytes_moved"] = case.bytes_moved
    if case.observe is not None:
        result["observed"] = case.observe(entrants)
    return result


def enter(case: Case, skip: Sequence[str]) -> tuple[dict[str, Entrant], dict[str, str]]:
    """The contestants that take part, and why others do not."""
    entrants: dict[str, Entrant] = {}
    missing: dict[str, str] = {}
    for contestant in case.contestants:
        if any(fnmatch.fnmatchcase(contestant.name, pattern) for pattern in skip):
            continue
        try:
            entrants[contestant.name] = contestant.build()
        except ModuleNotFoundError as error:
            missing[contestant.name] = f"not installed: {error.name}"
    return entrants, missing


def prove_equal(name: str, case: Case, entrants: Mapping[str, Entrant]) -> dict[str, dict[str, float]]:
    """Compare every answer with what the case expects; return the figures that were found on the way."""
    facts: dict[str, dict[str, float]] = {}
    for contestant, entrant in entrants.items():
        if entrant.outcome is None:
            continue
        try:
            facts[contestant] = case.verify(contestant, entrant.outcome())
        except Mismatch as difference:
            raise SystemExit(
                f"{name}: {contestant!r} does not compute the same thing, so nothing was timed: {difference} "
                f"(the rule: {case.rule})"
            ) from difference
    return facts


def judge(target: Target, timed: Measurement) -> dict[str, Any] | None:
    """A target's verdict, or None where one of its contestants did not run."""
    if target.subject not in timed.seconds or any(other not in timed.seconds for other in target.others):
        return None
    if target.kind == "faster":
        ratio = min((timed.ratio(other, target.subject) for other in target.others), key=lambda spread: spread.median)
        met = ratio.median >= target.limit
        text = f"{target.subject} at least {target.limit:g}x as fast as {_any_of(target.others)}"
    else:
        ratio = max((timed.ratio(target.subject, other) for other in target.others), key=lambda spread: spread.median)
        met = ratio.median <= target.limit
        text = f"{target.subject} at most {target.limit:g}x the time of {_any_of(target.others)}"
    return {"text": text, "limit": target.limit, "ratio": ratio.rounded(), "met": met}


def _any_of(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"the faster of {' and '.join(names)}"


def _timing(name: str, case: Case, timed: Measurement) -> dict[str, Any]:
    spread: Spread = timed.spread(name)
    row: dict[str, Any] = {
        "seconds": spread.rounded(),
        "ratio": timed.ratio(name, case.baseline).rounded(),
        "calls": timed.calls[name],
    }
    if case.bytes_moved is not None:
        row["gb_per_s"] = round(case.bytes_moved / spread.median / 1e9, 2)
    return row
