"""Files that are either written whole or not at all, and that say whether they are still what was written.

The digest is kept in the file itself, at a place that its format allows, so that no crash can separate the two:
``fairtat_digest: sha256:HEX``, where HEX is the SHA-256 of the whole file with zeros in the place of HEX. It finds what
a disk, a memory or a copy has changed. It is not a signature: anyone who can write the file can write its digest.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from fairtat.errors import UserError

__all__ = [
    "BLANK_DIGEST",
    "DIGEST_KEY",
    "DamagedFile",
    "append_json_line",
    "check_digest",
    "json_lines",
    "open_own",
    "parse_json",
    "read_checked",
    "read_csv",
    "refuse_links",
    "sealed",
    "sealed_json",
    "sealed_text",
    "sealed_zip",
    "write_atomic",
    "write_json",
]

DIGEST_KEY = "fairtat_digest"
_BLANK = b"0" * 64
BLANK_DIGEST = f"sha256:{_BLANK.decode()}"

# The digest stands near one end of the file. What damage leaves of one must be seen too, or it would count as none.
_DIGEST = re.compile(rb'fairtat_digest"?: ?"?sha256:([0-9a-f]{64})(?![0-9a-f])')
_TRACE = re.compile(rb"fairtat_d|sha256:|[0-9a-f]{41}")  # 40 digits may be a commit's
_REACH = 256


class DamagedFile(UserError):
    """A file whose contents are not what was written."""


def sealed(content: bytes) -> bytes:
    """``content``, which holds `DIGEST_KEY` and `BLANK_DIGEST` near one of its ends, with its digest filled in."""
    found = _digest_in(content)
    assert found is not None, "content has no place for a digest"
    start, end = found
    return b"".join((content[:start], _digest_of(content, start, end), content[end:]))


def sealed_json(value: Mapping[str, Any], *, indent: int | None = None) -> bytes:
    """One object as a JSON text that ends in its digest; numbers must be finite (use None)."""
    return sealed((json.dumps({**value, DIGEST_KEY: BLANK_DIGEST}, indent=indent, allow_nan=False) + "\n").encode())


def sealed_text(text: str, *, comment: str) -> bytes:
    """A text that begins with its digest, in a line that begins with ``comment``: so a loss at the end is noticed."""
    return sealed(f"{comment}{DIGEST_KEY}: {BLANK_DIGEST} (delete this line after an edit)\n{text}".encode())


def sealed_zip(archive: bytes) -> bytes:
    """A zip archive without a comment, such as `torch.save` and `numpy.savez` write, with its digest as the comment."""
    comment = f"{DIGEST_KEY}: {BLANK_DIGEST}".encode()
    assert archive[-2:] == b"\0\0", "the archive has a comment"
    return sealed(b"".join((archive[:-2], len(comment).to_bytes(2, "little"), comment)))


def check_digest(content: bytes, name: object) -> bool:
    """Whether ``content`` holds a digest, which is then the right one; files of older versions hold none.

    Raises:
        DamagedFile: the digest is another one, or damaged itself; the message begins with ``name``.
    """
    found = _digest_in(content)
    if found is None:
        if any(_TRACE.search(content, start, start + _REACH) for start in _ends(content)):
            raise DamagedFile(f"{name}: damaged: its digest cannot be read")
        return False
    start, end = found
    if _digest_of(content, start, end) != content[start:end]:
        raise DamagedFile(f"{name}: damaged: its contents are not what was written (SHA-256 differs)")
    return True


def read_checked(path: Path) -> bytes:
    """The content of a file, checked against its digest if it holds one.

    Raises:
        DamagedFile: as `check_digest`.
        OSError: missing, or cannot be read.
    """
    content = path.read_bytes()
    check_digest(content, path)
    return content


def parse_json(
    content: bytes, name: object, *, parse_constant: Callable[[str], object] | None = None
) -> dict[str, Any]:
    """The object that `sealed_json` wrote (or one without a digest), checked and without its digest.

    ``parse_constant`` is what `json.loads` does with NaN and infinities, which `sealed_json` never writes.

    Raises:
        DamagedFile: its digest is wrong, or it is not a JSON object.
    """
    check_digest(content, name)
    try:
        value = json.loads(content, parse_constant=parse_constant)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{name}: damaged or not JSON ({error})") from error
    if not isinstance(value, dict):
        raise DamagedFile(f"{name}: expected a JSON object, found {type(value).__name__}")
    value.pop(DIGEST_KEY, None)
    return value


def read_csv(file: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The names of a table's columns, from its first line, and its rows.

    Raises:
        UserError: missing, cannot be read, two columns of one name, or a row with more cells than there are columns.
    """
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, restval="", restkey="")
            columns, rows = list(reader.fieldnames or ()), list(reader)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: cannot be read ({error})") from error
    if not columns or "" in columns or len(set(columns)) < len(columns):
        raise UserError(f"{file}: has the columns {', '.join(columns) or 'none'}; expected different names, in line 1")
    if any("" in row for row in rows):
        raise UserError(f"{file}: a row has more cells than the first line has columns")
    return columns, rows


# Follow no link, wait for no reader of a pipe, hand nothing to children, translate no line end (the last two: Windows).
_NAMES = ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_NOINHERIT", "O_BINARY")
_AS_IT_IS = sum(getattr(os, name, 0) for name in _NAMES)


def open_own(path: Path, flags: int) -> int:
    """A descriptor of a plain file that has this name alone: a folder from elsewhere cannot have another one written.

    Raises:
        UserError: there is a link, a pipe, a device or a folder under its name.
        OSError: as `os.open`.
    """
    refused = UserError(f"{path}: is a link or not a plain file, so it is not written; remove it")
    try:
        if not hasattr(os, "O_NOFOLLOW") and path.is_symlink():
            raise refused
        descriptor = os.open(path, flags | _AS_IT_IS, 0o666)
    except OSError as error:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise refused from error
        raise
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        os.close(descriptor)
        raise refused
    return descriptor


def refuse_links(*folders: Path) -> None:
    """Refuse folders, inside one that may come from elsewhere, that lead out of it.

    Raises:
        UserError: one of them is a symbolic link.
    """
    for folder in folders:
        if folder.is_symlink():
            raise UserError(f"{folder}: is a symbolic link, so nothing is written there; remove it")


def _ends(content: bytes) -> tuple[int, int]:
    return 0, max(0, len(content) - _REACH)


def _digest_in(content: bytes) -> tuple[int, int] | None:
    """Where the 64 digits are."""
    for start in _ends(content):
        found = _DIGEST.search(content, start, start + _REACH)
        if found is not None:
            return found.span(1)
    return None


def _digest_of(content: bytes, start: int, end: int) -> bytes:
    view = memoryview(content)
    digest = hashlib.sha256(view[:start])
    digest.update(_BLANK)
    digest.update(view[end:])
    return digest.hexdigest().encode()


def write_atomic(path: Path, write: Callable[[BinaryIO], object], *, keep: Path | None = None) -> None:
    """Call ``write`` on a temporary file beside ``path``, then put it in the place of ``path`` in one step.

    A reader, even after a crash, finds the old content or the new, never a fragment; when this returns, the
    new content is on disk under its name. With ``keep`` the old content stays there, in the same folder, replacing what
    that name held: only once the new content is safe, so that a failure loses neither.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)  # of a process that died and had the same number, as they have in containers
    try:
        with os.fdopen(open_own(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as stream:
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
    """Append one object and its digest as one line, on disk when this returns; numbers must be finite (use None).

    On an error, such as a full disk, the file is as long as before: no half line is left behind.
    """
    line = sealed_json(value)
    # Unbuffered: a buffer that could not be written would be tried again when the file is closed.
    with os.fdopen(open_own(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "ab", buffering=0) as stream:
        length = stream.seek(0, os.SEEK_END)
        try:
            _write_all(stream, line)
            os.fsync(stream.fileno())
        except BaseException:
            stream.truncate(length)
            raise


def json_lines(
    content: bytes, name: object, *, parse_constant: Callable[[str], object] | None = None
) -> Iterator[tuple[bytes, dict[str, Any] | DamagedFile]]:
    """Each line that `append_json_line` wrote, and its object, or why it is not what was written.

    In a file of an older version no line has a digest; where one has, a line without is damaged.
    """
    lines = content.splitlines(keepends=True)
    found = [_read_line(line, f"{name}, line {number}", parse_constant) for number, line in enumerate(lines, start=1)]
    must = any(checked for checked, _ in found)
    for number, (line, (checked, value)) in enumerate(zip(lines, found, strict=True), start=1):
        if must and not checked and isinstance(value, dict):
            value = DamagedFile(f"{name}, line {number}: damaged: it has lost its digest")
        yield line, value


def _read_line(
    line: bytes, name: str, parse_constant: Callable[[str], object] | None
) -> tuple[bool, dict[str, Any] | DamagedFile]:
    """Whether its digest was checked, and its object."""
    try:
        return check_digest(line, name), parse_json(line, name, parse_constant=parse_constant)
    except DamagedFile as error:
        return False, error


def _write_all(stream: Any, data: bytes) -> None:
    rest = memoryview(data)
    while rest:  # a raw write may be partial, for example on a disk that is almost full
        rest = rest[stream.write(rest) :]


def _keep(path: Path, keep: Path) -> None:
    """``keep`` becomes another name of what ``path`` holds now, without a moment in which ``path`` is missing."""
    link = keep.with_name(f".{keep.name}.{os.getpid()}.tmp")
    link.unlink(missing_ok=True)
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
