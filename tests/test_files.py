"""Atomic files: whole or untouched, whatever happens while writing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fairtat.files import append_json_line, write_atomic, write_json


def test_a_failure_while_writing_keeps_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")

    def fail(stream) -> None:
        stream.write(b"half of the new")
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        write_atomic(file, fail)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_reader_sees_the_old_content_until_the_new_is_complete(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    seen = []

    def write(stream) -> None:
        stream.write(b"new" * 1000)
        stream.flush()
        seen.append(file.read_bytes())

    write_atomic(file, write)
    assert seen == [b"old"]
    assert file.read_bytes() == b"new" * 1000


def test_json_lines_append_and_refuse_nan(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    append_json_line(file, {"epoch": 1})
    append_json_line(file, {"epoch": 2})
    with pytest.raises(ValueError):
        append_json_line(file, {"epoch": float("nan")})
    assert [json.loads(line) for line in file.read_text().splitlines()] == [{"epoch": 1}, {"epoch": 2}]
    write_json(tmp_path / "value", {"a": [1, None]})
    assert json.loads((tmp_path / "value").read_text()) == {"a": [1, None]}
