"""Answers kept on disk: an evaluation that was interrupted goes on, and one that was made before is only read."""

from __future__ import annotations

import hashlib
import io
import json
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from fairtat.files import write_atomic

SAVE_EVERY = 15.0
"""Seconds between two writes of an unfinished part: what an interruption may cost."""

LAYOUT = 1
"""Part of every key: parts of another layout, or of other rules of evaluation, are never found."""


class Parts:
    """A folder with one file for each question, named by a digest of everything that its answer depends on.

    ``folder=None`` keeps nothing. A file that cannot be read counts as not there.
    """

    def __init__(self, folder: Path | None, subject: Mapping[str, Any]) -> None:
        self._folder = folder
        self._subject = dict(subject)
        self._saved = time.monotonic()

    def load(self, question: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], int] | None:
        """The arrays kept for a question, and how many work items they cover."""
        if self._folder is None:
            return None
        try:
            with np.load(self._path(question), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            return arrays, int(arrays.pop("done"))
        except (OSError, BadZipFile, zlib.error, KeyError, EOFError, ValueError):
            return None

    def save(
        self, question: Mapping[str, Any], arrays: Mapping[str, np.ndarray], done: int, *, complete: bool = True
    ) -> None:
        """Keep the arrays; an unfinished part is written only every `SAVE_EVERY` seconds."""
        if self._folder is None or (not complete and time.monotonic() - self._saved < SAVE_EVERY):
            return
        file = io.BytesIO()
        # By name and kind: the arrays' names are fixed, numpy's own keywords are none of them.
        np.savez_compressed(file, allow_pickle=False, done=np.array(done), **arrays)
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self._path(question), lambda stream: stream.write(file.getvalue()))
        self._saved = time.monotonic()

    def _path(self, question: Mapping[str, Any]) -> Path:
        assert self._folder is not None
        asked = json.dumps({"layout": LAYOUT, "subject": self._subject, "question": question}, sort_keys=True)
        return self._folder / f"{hashlib.sha256(asked.encode()).hexdigest()[:32]}.npz"
