"""What a report knows of one run: its evaluation, and what its folder says about its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fairtat.errors import UserError
from fairtat.evaluation.result import Evaluation
from fairtat.files import DamagedFile, json_lines, parse_json, read_checked

__all__ = ["RunRecord", "read_record"]


@dataclass(frozen=True, eq=False)
class RunRecord:
    """One run of a report.

    Attributes:
        name: what the run is called in the report.
        history: the lines of its metrics.jsonl, one per epoch; empty for a model that was trained elsewhere.
        config, environment: what it was trained with, where, and with which versions; None if unknown.
    """

    name: str
    evaluation: Evaluation = field(repr=False)
    history: Sequence[Mapping[str, Any]] = field(default=(), repr=False)
    config: Mapping[str, Any] | None = field(default=None, repr=False)
    environment: Mapping[str, Any] | None = field(default=None, repr=False)

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
        UserError: one of them is damaged.
    """
    folder = Path(folder)
    config_file, environment_file = folder / "config.yaml", folder / "environment.json"
    try:
        config = yaml.safe_load(read_checked(config_file)) if config_file.is_file() else None
    except yaml.YAMLError as error:
        raise UserError(f"{config_file}: damaged ({error})") from error
    environment = None
    if environment_file.is_file():
        environment = parse_json(environment_file.read_bytes(), environment_file, parse_constant=_no_number)
    return RunRecord(name, evaluation, _history(folder / "metrics.jsonl"), config, environment)


def _history(file: Path) -> tuple[Mapping[str, Any], ...]:
    lines = []
    content = file.read_bytes() if file.is_file() else b""
    for number, (text, line) in enumerate(json_lines(content, file, parse_constant=_no_number), start=1):
        try:
            if isinstance(line, DamagedFile):
                raise line
            line["epoch"] = int(line["epoch"])
        except (UserError, ValueError, KeyError, TypeError) as error:
            if not text.endswith(b"\n"):
                break  # a run that was killed while it wrote its last line, or is writing it now
            if isinstance(error, UserError):
                raise
            raise UserError(f"{file}, line {number}: not the figures of an epoch ({error})") from error
        lines.append(line)
    return tuple(lines)


def _no_number(_: str) -> None:
    """Read NaN and Infinity, which Python writes but JSON does not allow, as missing."""
