"""One process at a time writes in a run folder."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from fairtat.errors import UserError
from fairtat.files import open_own

__all__ = ["LOCK_NAME", "lock_owner", "run_lock"]

LOCK_NAME = "run.lock"

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
_LOCKED_BYTE = 1 << 30  # on Windows, where a locked byte cannot be read: far behind the owner's name

_held: set[Path] = set()  # by this process, which the operating system would let lock a file twice


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold ``folder/run.lock``, which names this process, and remove it at the end.

    The operating system lets go of the lock of a process that has died, so a lock file that was left behind is simply
    taken over. Child processes do not inherit it.

    Raises:
        UserError: another process holds it, which the message names, or it is not a plain file.
        OSError: the file cannot be written.
    """
    path = folder.resolve() / LOCK_NAME
    if path in _held:
        raise UserError(f"{folder}: this process is training in this folder already")
    descriptor = _acquire(folder, path)
    _held.add(path)
    try:
        owner = json.dumps({"pid": os.getpid(), "host": socket.gethostname()}) + "\n"
        os.ftruncate(descriptor, 0)
        os.write(descriptor, owner.encode())
        yield
    finally:
        _held.discard(path)
        if fcntl is None:  # an open file cannot be removed there, and one that the next process has opened stays
            os.close(descriptor)
            with contextlib.suppress(PermissionError):
                path.unlink(missing_ok=True)
        else:
            path.unlink(missing_ok=True)  # while it is still held: no other process can have taken it
            os.close(descriptor)


def lock_owner(folder: Path) -> str | None:
    """Which process is writing in this folder, in words, or None.

    On Linux the lock is looked at, never taken; elsewhere it is taken for a moment.

    Raises:
        OSError: the lock file cannot be read.
    """
    path = folder.resolve() / LOCK_NAME
    if path in _held:
        return f"process {os.getpid()} on {socket.gethostname()}"
    looks = fcntl is not None and sys.platform == "linux"
    try:
        descriptor = open_own(path, os.O_RDONLY if looks else os.O_RDWR)
    except FileNotFoundError:
        return None
    try:
        return _owner(descriptor) if _is_locked(descriptor) else None
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    """Whether another process holds the lock of `_acquire`."""
    if fcntl is not None and sys.platform == "linux":
        # struct flock there: type, whence, start, length, process.
        wanted = struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        found = struct.unpack("hhqqi0q", fcntl.fcntl(descriptor, fcntl.F_GETLK, wanted))
        return bool(found[0] != fcntl.F_UNLCK)
    try:
        _lock(descriptor)
    except (BlockingIOError, PermissionError):
        return True
    return False


def _acquire(folder: Path, path: Path) -> int:
    while True:
        descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
        try:
            _lock(descriptor)
        except (BlockingIOError, PermissionError):
            owner = _owner(descriptor)
            os.close(descriptor)
            raise UserError(
                f"{folder}: {owner} is writing in this folder; wait until it has finished, or stop it first"
            ) from None
        except OSError:  # a file system that knows no locks
            return descriptor
        with contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(descriptor).st_ino:  # noqa: PTH116 - beside fstat
                return descriptor
        os.close(descriptor)  # its last owner removed it between our open and our lock


def _lock(descriptor: int) -> None:
    """Lock the file for this process, without waiting; the operating system lets go with the process.

    Raises:
        BlockingIOError, PermissionError: another process holds it.
    """
    if fcntl is not None:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return
    import msvcrt

    os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    finally:
        os.lseek(descriptor, 0, os.SEEK_SET)


def _owner(descriptor: int) -> str:
    try:
        owner = json.loads(os.read(descriptor, 1000))
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
