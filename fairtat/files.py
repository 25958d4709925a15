"""Files that are either written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

__all__ = ["append_json_line", "write_atomic", "write_json"]


def write_atomic(path: Path, write: Callable[[BinaryIO], object], *, keep: Path | None = None) -> None:
    """Call ``write`` on a temporary file beside ``path``, then put it in the place of ``path`` in one step.

    A reader, or whoever comes after a crash, finds the old content or the new, never a part; when this returns, the
    new content is on disk under its name. With ``keep`` the old content stays there, in the same folder, replacing what
    that name held: only once the new content is safe, so that a failure loses neither.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        if keep is not None and path.exists():
            _keep(path, keep)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    write_atomic(path, lambda stream: stream.write(text.encode()))


def append_json_line(path: Path, value: Mapping[str, Any]) -> None:
    """Append one object as one line, on disk when this returns; numbers must be finite (use None).

    On an error, such as a full disk, the file is as long as before: no half line is left behind.
    """
    line = json.dumps(value, allow_nan=False) + "\n"
    # Unbuffered: a buffer that could not be written would be tried again when the file is closed.
    with path.open("ab", buffering=0) as stream:
        length = stream.seek(0, os.SEEK_END)
        try:
            _write_all(stream, line.encode())
            os.fsync(stream.fileno())
        except BaseException:
            stream.truncate(length)
            raise


def _write_all(stream: Any, data: bytes) -> None:
    rest = memoryview(data)
    while rest:  # a raw file may take a part only, for example the last free bytes of a disk
        rest = rest[stream.write(rest) :]


def _keep(path: Path, keep: Path) -> None:
    """``keep`` becomes another name of what ``path`` holds now, without a moment in which ``path`` is missing."""
    link = keep.with_name(f".{keep.name}.{os.getpid()}.tmp")
    try:
        link.hardlink_to(path)
    except OSError:  # a file system without hard links: there, a crash right now leaves ``keep`` alone
        path.replace(keep)
    else:
        link.replace(keep)


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a power cut. Some network file systems refuse; they keep their own order."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
