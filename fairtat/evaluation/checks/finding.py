"""A reason to doubt a figure, in plain language."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """Something that a reader of the figures must know.

    ``id`` names the check, "group:what"; ``severity`` is "error" (the figures do not mean what they seem to mean),
    "warning" (they may not) or "info"; ``text`` explains it to a reader, and says what to do.
    """

    id: str
    severity: str
    text: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)
