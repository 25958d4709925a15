"""Answers kept on disk: an interrupted evaluation resumes, and a finished one is only read."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np

from fairtat.files import DamagedFile, check_digest, sealed_zip, write_atomic

_LOG = logging.getLogger("fairtat")

SAVE_EVERY = 15.0
"""Seconds between two writes of an unfinished part: what an interruption may cost."""

LAYOUT = 2
"""Part of every key: parts of another layout, or of other rules of evaluation, are never found."""

HEADER = 1 << 10
"""Bytes that an array's header may take."""


class AnswerStore:
    """A folder with one file for each question, named by a digest of everything that its answer depends on.

    ``folder=None`` keeps nothing; with ``fresh`` nothing is read. A file that is damaged counts as not there, and a
    warning on the log names it.
    """

    def __init__(self, folder: Path | None, subject: Mapping[str, Any], *, fresh: bool = False) -> None:
        self._folder = folder
        self._fresh = fresh
        self._subject = dict(subject)
        self._saved = time.monotonic()

    @property
    def keeps(self) -> bool:
        """Whether anything is kept at all."""
        return self._folder is not None

    def load(
        self, question: Mapping[str, Any], like: Mapping[str, np.ndarray], total: int
    ) -> tuple[dict[str, np.ndarray], int] | None:
        """The arrays kept for a question, and how many of its ``total`` work items they cover; None without any.

        They have the names, shapes and dtypes of ``like``.
        """
        if self._folder is None or self._fresh:
            return None
        path = self._path(question)
        try:
            return _read(path.read_bytes(), path, like, total)
        except FileNotFoundError:
            return None
        except (OSError, DamagedFile) as error:
            _LOG.warning("warning: %s; its result is computed again", error)
            return None

    def save(
        self, question: Mapping[str, Any], arrays: Mapping[str, np.ndarray], done: int, *, complete: bool = True
    ) -> None:
        """Keep the arrays; an unfinished part is written only every `SAVE_EVERY` seconds."""
        if self._folder is None or (not complete and time.monotonic() - self._saved < SAVE_EVERY):
            return
        file = io.BytesIO()
        # By name and kind: the arrays' names are fixed, and are not keywords of numpy.
        np.savez_compressed(file, allow_pickle=False, done=np.array(done), **arrays)
        content = sealed_zip(file.getvalue())
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self._path(question), lambda stream: stream.write(content))
        self._saved = time.monotonic()

    def _path(self, question: Mapping[str, Any]) -> Path:
        assert self._folder is not None
        asked = json.dumps({"layout": LAYOUT, "subject": self._subject, "question": question}, sort_keys=True)
        return self._folder / f"{hashlib.sha256(asked.encode()).hexdigest()[:32]}.npz"


def _read(content: bytes, path: Path, like: Mapping[str, np.ndarray], total: int) -> tuple[dict[str, np.ndarray], int]:
    """What `AnswerStore.save` wrote; whatever else the file may hold is a `DamagedFile`."""
    if not check_digest(content, path):
        raise DamagedFile(f"{path}: damaged: it holds no digest")
    expected = {**like, "done": np.array(0)}
    try:
        with ZipFile(io.BytesIO(content)) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        # Before anything is unpacked: a few bytes may claim to hold terabytes.
        if any(sizes.get(f"{name}.npy", HEADER) > array.nbytes + HEADER for name, array in expected.items()):
            raise ValueError("an array is larger than expected")
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            if set(file.files) != set(expected):
                raise ValueError(f"it holds {', '.join(sorted(file.files)) or 'nothing'}")
            arrays = {name: file[name] for name in expected}
    except (OSError, BadZipFile, zlib.error, KeyError, EOFError, ValueError, NotImplementedError) as error:
        raise DamagedFile(f"{path}: damaged: {error}") from error
    for name, array in expected.items():
        found = arrays[name]
        if found.shape != array.shape or found.dtype != array.dtype:
            raise DamagedFile(
                f"{path}: damaged: {name} is {found.dtype} of shape {found.shape}, "
                f"expected {array.dtype} of shape {array.shape}"
            )
    done = int(arrays.pop("done"))
    if not 0 <= done <= total:
        raise DamagedFile(f"{path}: damaged: it says that {done} of {total} are done")
    return arrays, done
