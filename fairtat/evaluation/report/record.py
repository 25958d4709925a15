"""What a report knows of one run: its evaluation, and what its folder says about its training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fairtat.errors import UserError
from fairtat.evaluation.result import Evaluation

__all__ = ["RunRecord", "read_record"]


@dataclass(frozen=True, eq=False)
class RunRecord:
    """One run of a report.

    Attributes:
        name: what the run is called in the report.
        history: the lines of its metrics.jsonl, an epoch each; empty for a model that was trained elsewhere.
        config, environment: what it was trained with, where, and with which versions; None if unknown.
    """

    name: str
    evaluation: Evaluation
    history: Sequence[Mapping[str, Any]] = ()
    config: Mapping[str, Any] | None = None
    environment: Mapping[str, Any] | None = None

    def series(self, *keys: str) -> list[tuple[float, Any]]:
        """(epoch, value) of every epoch that has ``line[keys[0]][keys[1]]...``; a value may be None or a list."""
        found = []
        for line in self.history:
            value: Any = line
            for key in keys:
                value = value.get(key) if isinstance(value, Mapping) else None
            if value is not None:
                found.append((float(line["epoch"]), value))
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "evaluation": self.evaluation.to_dict(),
            "history": [dict(line) for line in self.history],
            "config": self.config,
            "environment": self.environment,
        }


def read_record(folder: str | Path, name: str, evaluation: Evaluation) -> RunRecord:
    """A run folder's record; config.yaml, metrics.jsonl and environment.json may each be missing.

    Raises:
        UserError: one of them is there, but damaged.
    """
    folder = Path(folder)
    try:
        config = yaml.safe_load(_text(folder / "config.yaml") or "null")
        environment = json.loads(_text(folder / "environment.json") or "null", parse_constant=_no_number)
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{folder}: config.yaml or environment.json is damaged ({error})") from error
    return RunRecord(name, evaluation, _history(folder / "metrics.jsonl"), config, environment)


def _history(file: Path) -> tuple[Mapping[str, Any], ...]:
    lines = []
    for number, text in enumerate((_text(file) or "").splitlines(keepends=True), start=1):
        try:
            line = json.loads(text, parse_constant=_no_number)
            line["epoch"] = int(line["epoch"])
        except (ValueError, KeyError, TypeError) as error:
            if not text.endswith("\n"):
                break  # a run that was killed while it wrote its last line, or is writing it now
            raise UserError(f"{file}, line {number}: not the figures of an epoch ({error})") from error
        lines.append(line)
    return tuple(lines)


def _text(file: Path) -> str | None:
    return file.read_text(encoding="utf-8") if file.is_file() else None


def _no_number(_: str) -> None:
    """NaN and Infinity, which no JSON holds but Python writes, are read as missing."""
