"""What a tracker calls a run, and what it is told of it at the start."""

from __future__ import annotations

import hashlib
from typing import Any

from fairtat.errors import UserError
from fairtat.files import parse_json
from fairtat.training.config import leaves
from fairtat.training.events import RunStart

__all__ = ["run_id", "settings"]


def run_id(start: RunStart) -> str:
    """32 hexadecimal digits: of a resumed run the same as before, of another run in the same folder others."""
    path = start.path.resolve()
    try:
        file = path / "environment.json"
        began = parse_json(file.read_bytes(), file).get("started")
    except (OSError, UserError):  # damaged or removed: the run itself needs it not
        began = None
    return hashlib.sha256(f"{path}\n{began}".encode()).hexdigest()[:32]


def settings(start: RunStart) -> dict[str, Any]:
    """Every setting by its key, with the facts of the run."""
    facts = {
        "classes": len(start.class_names),
        "train_samples": start.train_samples,
        "val_samples": start.val_samples,
        "parameters": start.parameters,
        "processes": start.processes,
    }
    return {key: _plain(value) for key, value in leaves(start.config)} | {f"run.{k}": v for k, v in facts.items()}


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | str) else str(value)
