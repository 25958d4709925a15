"""Atomic files: whole or untouched, whatever happens while writing."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fairtat.files import (
    DamagedFile,
    append_json_line,
    check_digest,
    json_lines,
    parse_json,
    read_checked,
    sealed_json,
    sealed_text,
    sealed_zip,
    write_atomic,
    write_json,
)


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
    lines = file.read_bytes().splitlines(keepends=True)
    assert [parse_json(line, file) for line in lines] == [{"epoch": 1}, {"epoch": 2}]
    write_json(tmp_path / "value", {"a": [1, None]})
    assert json.loads((tmp_path / "value").read_text()) == {"a": [1, None]}


def archive() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.arange(50))
    return stream.getvalue()


SEALED = {
    "json": sealed_json({"epoch": 1, "name": "digestive system", "loss": [0.5, None]}, indent=1),
    "text": sealed_text("epochs: 3\nseed: 0\n", comment="# "),
    "zip": sealed_zip(archive()),
}


@pytest.mark.parametrize("kind", SEALED)
def test_a_digest_is_the_sha256_of_the_file_with_zeros_in_its_place(kind: str) -> None:
    content = SEALED[kind]
    (digits,) = re.findall(rb"fairtat_digest\"?: \"?sha256:([0-9a-f]{64})", content)
    assert hashlib.sha256(content.replace(digits, b"0" * 64)).hexdigest().encode() == digits
    assert check_digest(content, "file")


@pytest.mark.parametrize("kind", SEALED)
def test_every_flipped_bit_of_a_file_with_a_digest_is_found(kind: str) -> None:
    content = SEALED[kind]
    for position in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[position // 8] ^= 1 << position % 8
        with pytest.raises(DamagedFile, match=r"^file: damaged: ") as caught:
            check_digest(bytes(damaged), "file")
        assert "\n" not in str(caught.value)


def test_no_bytes_that_are_lost_or_overwritten_make_a_file_without_a_digest_of_it() -> None:
    content = sealed_json({"epoch": 1, "name": "digestive system", "loss": [0.5, None]})
    refused = 0
    for length in range(1, 20):
        for start in range(len(content) - length + 1):
            lost = content[:start] + content[start + length :]
            moved = content[: start + length] + content[start : start + length] + content[start + 2 * length :]
            for damaged in {lost, moved} - {content}:
                with pytest.raises(DamagedFile):
                    parse_json(damaged, "file")
                refused += 1
    assert refused > 5000


def test_of_lines_with_a_digest_none_is_read_without_and_an_old_file_has_none() -> None:
    line, old = sealed_json({"epoch": 1}), b'{"epoch": 2}\n'
    assert list(json_lines(old + old, "file")) == [(old, {"epoch": 2})] * 2
    (first, value), (second, error) = json_lines(line + old, "file")
    assert (first, value, second) == (line, {"epoch": 1}, old)
    assert str(error) == "file, line 2: damaged: it has lost its digest"
    assert isinstance(next(json_lines(old + line, "file"))[1], DamagedFile)


def test_what_is_cut_off_a_text_is_missed(tmp_path: Path) -> None:
    for length in range(len("# fairtat_digest"), len(SEALED["text"])):
        (tmp_path / "config.yaml").write_bytes(SEALED["text"][:length])
        with pytest.raises(DamagedFile, match=r"config\.yaml: damaged"):
            read_checked(tmp_path / "config.yaml")


def test_other_programs_read_a_file_with_a_digest() -> None:
    assert json.loads(SEALED["json"])["loss"] == [0.5, None]
    assert parse_json(SEALED["json"], "file") == {"epoch": 1, "name": "digestive system", "loss": [0.5, None]}
    with np.load(io.BytesIO(SEALED["zip"])) as arrays:
        assert (arrays["a"] == np.arange(50)).all()
    assert zipfile.ZipFile(io.BytesIO(SEALED["zip"])).testzip() is None


@pytest.mark.parametrize("content", [b"", b"epochs: 3\n", b'{"class": "digestive system"}', archive()])
def test_files_without_a_digest_are_not_judged(content: bytes) -> None:
    assert not check_digest(content, "file")


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_object_is_said_to_be_damaged(content: bytes) -> None:
    with pytest.raises(DamagedFile, match=r"^file: "):
        parse_json(content, "file")
