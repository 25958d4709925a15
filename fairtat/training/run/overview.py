"""What the run folders below a folder are, at a glance: no checkpoint is loaded, and no code is run."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fairtat.errors import UserError
from fairtat.files import json_lines, read_checked
from fairtat.training.config import TrainConfig, from_run, leaves, parse_yaml
from fairtat.training.run.lock import lock_owner

__all__ = ["Glance", "differing", "find_runs", "glance"]

_SIGNS = ("config.yaml", "checkpoint.pt", "metrics.jsonl", "environment.json")
"""Two of them make a folder a run's; a lone config.yaml may be a person's own."""

_PLACES = frozenset({"output"})
"""Settings that differ between any two runs and say nothing about them."""


@dataclass(frozen=True)
class Glance:
    """One run folder; of a broken one, ``problem`` says why, and what could not be read is None."""

    path: Path
    state: Literal["finished", "running", "interrupted", "broken"]
    problem: str | None = None
    owner: str | None = None  # the process that is training
    config: TrainConfig | None = None
    epoch: int | None = None  # finished epochs
    clean: tuple[float, float] | None = None  # average and worst class on validation images, after the last epoch
    robust: tuple[float, float] | None = None


def find_runs(folder: str | Path) -> list[Path]:
    """The run folders in ``folder`` and below it, or itself; sorted. What cannot be listed is skipped.

    Raises:
        UserError: no such folder.
    """
    if not Path(folder).is_dir():
        raise UserError(f"{folder}: no such folder")
    return sorted(_runs(Path(folder)))


def _runs(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        if sum(name in files for name in _SIGNS) > 1:
            folders.clear()  # a run holds no others
            yield Path(place)
        folders[:] = [name for name in folders if not name.startswith(".")]


def glance(path: Path) -> Glance:
    """What one run folder holds. Never raises for what a file holds."""
    owner, config, epoch, clean, robust = None, None, None, None, None
    problems = []
    try:
        owner = lock_owner(path)
    except (OSError, UserError) as error:
        problems.append(_line(error))
    try:
        config = from_run(parse_yaml(read_checked(path / "config.yaml"), path / "config.yaml"), source="config.yaml")
    except (OSError, UserError, ValueError) as error:
        problems.append(_line(error))
    try:
        epoch, clean, robust = _last_epoch(path / "metrics.jsonl")
    except (OSError, UserError) as error:
        problems.append(_line(error))
    if not any((path / name).is_file() for name in ("checkpoint.pt", "checkpoint.previous.pt")):
        problems.append("holds no checkpoint.pt")
    if problems:
        return Glance(path, "broken", "; ".join(problems), owner, config, epoch, clean, robust)
    assert config is not None
    done = epoch is not None and epoch >= config.epochs
    state: Literal["finished", "running", "interrupted"] = "running" if owner else "finished" if done else "interrupted"
    return Glance(path, state, None, owner, config, epoch, clean, robust)


def differing(configs: Sequence[TrainConfig]) -> list[str]:
    """Keys of the settings that are not the same in all of them, in the order of the configuration."""
    tables = [dict(leaves(config)) for config in configs]
    keys = tables[0] if tables else {}
    return [key for key in keys if key not in _PLACES and any(table[key] != tables[0][key] for table in tables)]


def _last_epoch(file: Path) -> tuple[int, tuple[float, float] | None, tuple[float, float] | None]:
    """The last line that is whole; a line that is being written is not damage."""
    if not file.is_file():
        return 0, None, None  # no epoch was over
    lines = [value for _, value in json_lines(file.read_bytes(), file.name) if isinstance(value, dict)]
    whole = [line for line in lines if isinstance(line.get("epoch"), int)]
    if not whole:
        raise UserError(f"{file.name}: holds no whole line")
    last = whole[-1]
    averaged = last.get("averaged")
    source = averaged if isinstance(averaged, dict) else last
    clean, robust = ("clean", "robust") if source is averaged else ("val_clean", "val_robust")
    return last["epoch"], _accuracy(source.get(clean)), _accuracy(source.get(robust))


def _accuracy(values: Any) -> tuple[float, float] | None:
    if not isinstance(values, dict):
        return None
    found = [values.get("average"), values.get("worst")]
    return tuple(found) if all(isinstance(v, float | int) and math.isfinite(v) for v in found) else None  # type: ignore[return-value]


def _line(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{Path(str(error.filename)).name}: {error.strerror}"
    return " ".join(str(error).split())
