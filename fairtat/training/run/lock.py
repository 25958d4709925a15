"""One process at a time writes in a run folder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from fairtat.errors import UserError
from fairtat.files import open_own

__all__ = ["LOCK_NAME", "lock_owner", "run_lock"]

LOCK_NAME = "run.lock"

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
        path.unlink(missing_ok=True)  # while it is still held: no other process can have taken it
        os.close(descriptor)


def lock_owner(folder: Path) -> str | None:
    """Which process is writing in this folder, in words, or None; the lock is looked at, never taken.

    Raises:
        OSError: the lock file cannot be read.
    """
    path = folder.resolve() / LOCK_NAME
    if path in _held:
        return f"process {os.getpid()} on {socket.gethostname()}"
    try:
        descriptor = open_own(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        # struct flock of Linux: type, whence, start, length, process. What is asked for is the lock of `_acquire`.
        wanted = struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        found = struct.unpack("hhqqi0q", fcntl.fcntl(descriptor, fcntl.F_GETLK, wanted))
        return None if found[0] == fcntl.F_UNLCK else _owner(descriptor)
    finally:
        os.close(descriptor)


def _acquire(folder: Path, path: Path) -> int:
    while True:
        descriptor = open_own(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
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


def _owner(descriptor: int) -> str:
    try:
        owner = json.loads(os.read(descriptor, 1000))
        return f"process {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
