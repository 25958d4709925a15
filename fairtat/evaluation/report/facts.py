"""Everything that is needed to reproduce the figures, and how the runs were trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from fairtat.evaluation.metrics.figures import ClassFigures
from fairtat.evaluation.report.record import RunRecord

__all__ = ["ConditionRow", "Fact", "condition_rows", "config_text", "differing_settings", "facts"]


@dataclass(frozen=True)
class Fact:
    """A line of a table with a value for each run."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class ConditionRow:
    """One condition with the figures of each run; None for a run without it."""

    title: str
    figures: tuple[ClassFigures | None, ...]


def condition_rows(records: Sequence[RunRecord]) -> list[ConditionRow]:
    """Every condition of any run, except corruptions, which have a separate map."""
    titles: dict[str, str] = {}
    for record in records:
        for condition in record.evaluation.conditions:
            if condition.kind != "corruption":
                titles.setdefault(condition.name, condition.title)
    return [
        ConditionRow(
            title,
            tuple(
                record.evaluation.condition(name).figures if name in record.evaluation else None for record in records
            ),
        )
        for name, title in titles.items()
    ]


def facts(records: Sequence[RunRecord]) -> list[Fact]:
    """The evaluation's settings, then where the runs came from: every setting on which a figure depends."""
    columns: list[dict[str, Any]] = []
    for record in records:
        evaluation, environment = record.evaluation, record.environment or {}
        settings = evaluation.attack.to_dict()
        settings["stages"] = ", ".join(str(stage["attack"]) for stage in settings["stages"]) or None
        started = {f"trained: {key}": environment.get(key) for key in _ENVIRONMENT}
        columns.append(
            {
                **{f"attack: {key}": value for key, value in settings.items()},
                "images": evaluation.clean.total,
                **{f"evaluated: {key}": value for key, value in evaluation.source.items()},
                **started,
            }
        )
    return _table(columns)


def differing_settings(records: Sequence[RunRecord]) -> list[Fact]:
    """The settings in which the runs' training configurations differ, except the names of their folders."""
    flat = [_flat(record.config or {}) for record in records]
    return [fact for fact in _table(flat) if len(set(fact.values)) > 1 and fact.name != "output"]


def config_text(record: RunRecord) -> str | None:
    """The training configuration as YAML."""
    if record.config is None:
        return None
    return yaml.safe_dump(dict(record.config), sort_keys=False, allow_unicode=True)


_ENVIRONMENT = ("started", "fairtat", "torch", "python", "device", "cuda", "processes", "git_commit", "platform")


def _table(columns: Sequence[Mapping[str, Any]]) -> list[Fact]:
    keys = dict.fromkeys(key for column in columns for key in column)
    rows = [Fact(key, tuple(_text(column.get(key)) for column in columns)) for key in keys]
    return [row for row in rows if any(value != _text(None) for value in row.values)]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found.update(_flat(value, f"{prefix}{key}."))
        else:
            found[f"{prefix}{key}"] = value
    return found


def _text(value: Any) -> str:
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
