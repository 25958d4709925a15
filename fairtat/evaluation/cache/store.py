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
"""Seconds between two writes of an unfinished part: what a process that is killed may lose."""

LAYOUT = 3
"""Part of every key: parts of another layout, or of other rules of evaluation, are never found."""

DONE = "done"

HEADER = 1 << 10
"""Bytes that an array's header may take."""


Kept = tuple[dict[str, np.ndarray], np.ndarray]
"""The arrays of an answer, and ``done`` (items,) int32: how many of its rounds each work item has behind it."""


class AnswerStore:
    """A folder with one file for each question, named by a digest of everything that its answer depends on.

    ``folder=None`` keeps nothing; with ``fresh`` nothing is read. A file that is damaged counts as not there, and a
    warning on the log names it. Of several processes that share an evaluation, each writes files of its own, with its
    ``rank`` in their names; `load` reads those of all.
    """

    def __init__(
        self,
        folder: Path | None,
        subject: Mapping[str, Any],
        *,
        fresh: bool = False,
        rank: int = 0,
        shared: bool = False,
    ) -> None:
        self._folder = folder
        self._fresh = fresh
        self._subject = dict(subject)
        self._rank = rank
        self._pause = 0.0 if shared else SAVE_EVERY
        self._saved = time.monotonic()

    @property
    def keeps(self) -> bool:
        """Whether anything is kept at all."""
        return self._folder is not None

    def load(
        self, question: Mapping[str, Any], like: Mapping[str, np.ndarray], items: int, rounds: int = 1
    ) -> list[Kept]:
        """What is kept for a question of ``items`` work items: one entry, or one for each process that began it.

        The arrays have the names, shapes and dtypes of ``like``. With ``fresh`` the parts of processes are removed.
        """
        if self._folder is None:
            return []
        if self._fresh:
            self._remove_parts(question)
            return []
        found = []
        for path in (self._path(question), *self._parts(question)):
            try:
                found.append(_read(path.read_bytes(), path, {**like, DONE: np.zeros(items, np.int32)}, rounds))
            except FileNotFoundError:
                continue
            except (OSError, DamagedFile) as error:
                _LOG.warning("warning: %s; its result is computed again", error)
        return found

    def save(
        self, question: Mapping[str, Any], arrays: Mapping[str, np.ndarray], done: np.ndarray, *, due: bool = True
    ) -> None:
        """Keep this process's part of an answer; unless it is ``due``, only every `SAVE_EVERY` seconds.

        Of several processes each writes after every batch, so that one that dies loses that batch alone.
        """
        if self._folder is None or (not due and time.monotonic() - self._saved < self._pause):
            return
        file = io.BytesIO()
        # By name and kind: the arrays' names are fixed, and are not keywords of numpy.
        np.savez_compressed(file, allow_pickle=False, **{DONE: done}, **arrays)
        content = sealed_zip(file.getvalue())
        self._folder.mkdir(parents=True, exist_ok=True)
        write_atomic(self._path(question, self._rank), lambda stream: stream.write(content))
        self._saved = time.monotonic()

    def finish(self, question: Mapping[str, Any], arrays: Mapping[str, np.ndarray], done: np.ndarray) -> None:
        """Keep a whole answer, in one file; the first process calls this when it has the parts of all."""
        if self._folder is not None:
            self.save(question, arrays, done)
            self._remove_parts(question)

    def _remove_parts(self, question: Mapping[str, Any]) -> None:
        for path in self._parts(question):
            path.unlink(missing_ok=True)

    def _parts(self, question: Mapping[str, Any]) -> list[Path]:
        """The files of processes other than the first."""
        path = self._path(question)
        return sorted(path.parent.glob(f"{path.stem}.*.npz"))

    def _path(self, question: Mapping[str, Any], rank: int = 0) -> Path:
        assert self._folder is not None
        asked = json.dumps({"layout": LAYOUT, "subject": self._subject, "question": question}, sort_keys=True)
        name = hashlib.sha256(asked.encode()).hexdigest()[:32]
        return self._folder / (f"{name}.{rank}.npz" if rank else f"{name}.npz")


def _read(content: bytes, path: Path, expected: Mapping[str, np.ndarray], rounds: int) -> Kept:
    """What `AnswerStore.save` wrote; whatever else the file may hold is a `DamagedFile`."""
    if not check_digest(content, path):
        raise DamagedFile(f"{path}: damaged: it holds no digest")
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
    done = arrays.pop(DONE)
    if ((done < 0) | (done > rounds)).any():
        raise DamagedFile(f"{path}: damaged: it says that {done.max()} of {rounds} rounds are done")
    return arrays, done
