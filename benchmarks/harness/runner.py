"""Runs a case: builds the contestants, proves that they agree, times them, and says what came out."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from records import duration

from harness.case import Case, CaseSpec, Entrant, Settings, Target, Unavailable
from harness.equality import Mismatch
from harness.gpu import clock
from harness.timing import Measurement, Spread, measure


@dataclass(frozen=True)
class Effort:
    """How long to measure a case."""

    budget: float
    min_rounds: int
    max_rounds: int = 200
    sample_seconds: float = 1e-3

    @classmethod
    def quick(cls) -> Effort:
        """Two rounds: does it run at all?"""
        return cls(0.0, 2, 2, 0.0)


def run_case(
    spec: CaseSpec, settings: Settings, effort: Effort, skip: Sequence[str] = (), *, keep_going: bool = False
) -> tuple[dict[str, Any], Measurement]:
    """One case as a JSON object, and the rounds behind it.

    With ``keep_going`` a contestant that fails or computes something else leaves the case, and its row says why; the
    baseline may not.

    Raises:
        Mismatch: two contestants disagree; the message names the case, the contestant and the difference.
    """
    torch.compiler.reset()  # each case compiles for itself, and must not run into another's recompilation limit
    case = spec.build(settings)
    entrants, missing, failed = enter(case, skip, keep_going=keep_going)
    facts, wrong = prove_equal(spec.name, case, entrants, keep_going=keep_going)
    failed |= wrong
    entrants = {name: entrant for name, entrant in entrants.items() if name not in wrong}
    if case.baseline not in entrants:
        why = failed.get(case.baseline) or missing.get(case.baseline)
        raise RuntimeError(
            f"{spec.name}: the baseline {case.baseline!r} must take part"
            + (f": {why}" if why else "; drop the --skip that matches it")
        )
    timed = measure(
        {name: entrant.run for name, entrant in entrants.items()},
        budget=effort.budget,
        min_rounds=effort.min_rounds,
        max_rounds=effort.max_rounds,
        sample_seconds=effort.sample_seconds,
        sample=clock(settings.device),
    ).per({name: entrant.share for name, entrant in entrants.items()})
    rows = []
    for contestant in case.contestants:
        row: dict[str, Any] = {"name": contestant.name, "role": contestant.role}
        if contestant.note:
            row["note"] = contestant.note
        if contestant.name in missing:
            row["missing"] = missing[contestant.name]
        elif contestant.name in failed:
            row["failed"] = failed[contestant.name]
        elif contestant.name in entrants:
            row |= _timing(contestant.name, case, timed)
            row |= facts.get(contestant.name, {})
        else:
            continue
        rows.append(row)
    targets = () if settings.rehearsal else case.targets  # a rehearsal's times mean nothing
    result: dict[str, Any] = {
        "name": spec.name,
        "headline": spec.headline,
        "baseline": case.baseline,
        "equality": case.rule,
        "rounds": timed.rounds,
        "contestants": rows,
        "targets": [verdict for target in targets if (verdict := judge(target, timed)) is not None],
    }
    if case.bytes_moved is not None:
        result["bytes_moved"] = case.bytes_moved
    if case.observe is not None:
        result["observed"] = case.observe(entrants)
    return result, timed


def enter(
    case: Case, skip: Sequence[str], *, keep_going: bool = False
) -> tuple[dict[str, Entrant], dict[str, str], dict[str, str]]:
    """The contestants that take part, why others are not there, and how others failed."""
    entrants: dict[str, Entrant] = {}
    missing: dict[str, str] = {}
    failed: dict[str, str] = {}
    for contestant in case.contestants:
        if any(fnmatch.fnmatchcase(contestant.name, pattern) for pattern in skip):
            continue
        try:
            entrants[contestant.name] = contestant.build()
        except ModuleNotFoundError as error:
            missing[contestant.name] = f"not installed: {error.name}"
        except Unavailable as error:
            missing[contestant.name] = str(error)
        except Exception as error:  # whatever a contestant's library or a compiler may raise
            if not keep_going:
                raise
            failed[contestant.name] = _summary(error)
    return entrants, missing, failed


def prove_equal(
    name: str, case: Case, entrants: Mapping[str, Entrant], *, keep_going: bool = False
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Compare every answer with what the case expects; the figures found on the way, and who was wrong."""
    facts: dict[str, dict[str, float]] = {}
    wrong: dict[str, str] = {}
    for contestant, entrant in entrants.items():
        if entrant.outcome is None:
            continue
        try:
            facts[contestant] = case.verify(contestant, entrant.outcome())
        except Mismatch as difference:
            if not keep_going:
                raise Mismatch(
                    f"{name}: {contestant!r} does not compute the same thing, so nothing was timed: {difference} "
                    f"(the rule: {case.rule})"
                ) from difference
            wrong[contestant] = f"does not compute the same thing: {difference}"
        except Exception as error:
            if not keep_going:
                raise
            wrong[contestant] = _summary(error)
    return facts, wrong


def _summary(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"


def judge(target: Target, timed: Measurement) -> dict[str, Any] | None:
    """A target's verdict, or None where one of its contestants did not run."""
    if target.subject not in timed.seconds or any(other not in timed.seconds for other in target.others):
        return None
    if target.kind == "seconds":
        spread = timed.spread(target.subject)
        text = f"{target.subject} in at most {duration(target.limit)}"
        return {"text": text, "limit": target.limit, "seconds": spread.rounded(), "met": spread.median <= target.limit}
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


def failures(case: Mapping[str, Any]) -> list[str]:
    """What went wrong in a case that was told to keep going."""
    rows = case.get("contestants", ())
    return [f"{case['name']}: {row['name']}: {row['failed']}" for row in rows if "failed" in row]
