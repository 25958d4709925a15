from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fairtat.errors import UserError
from fairtat.evaluation.report import RunRecord, read_record

Record = Callable[..., RunRecord]


def test_a_run_folder_is_read(tmp_path: Path, record: Record) -> None:
    (tmp_path / "config.yaml").write_text("attack: {eps: 8/255}\n")
    (tmp_path / "environment.json").write_text('{"torch": "2.13.0"}')
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1, "a": {"b": 0.5}}\n{"epoch": 2, "a": {"b": NaN}}\n')
    read = read_record(tmp_path, "at", record().evaluation)
    assert read.config == {"attack": {"eps": "8/255"}}
    assert read.environment == {"torch": "2.13.0"}
    assert read.series("a", "b") == [(1.0, 0.5)]


def test_an_empty_folder_is_a_run_of_which_nothing_is_known(tmp_path: Path, record: Record) -> None:
    read = read_record(tmp_path, "at", record().evaluation)
    assert (read.config, read.environment, list(read.history)) == (None, None, [])
    assert read.series("val_robust", "average") == []


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path, record: Record) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1}\n{"epoch": 2, "tr')
    assert [line["epoch"] for line in read_record(tmp_path, "at", record().evaluation).history] == [1]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("metrics.jsonl", '{"epoch": 1}\n{"epo\n{"epoch": 3}\n', "metrics.jsonl, line 2: damaged or not JSON"),
        ("metrics.jsonl", '{"lr": 1}\n', "line 1"),
        ("config.yaml", "a: [", "damaged"),
        ("environment.json", "{", "damaged"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, record: Record, file: str, text: str, message: str) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(UserError, match=message):
        read_record(tmp_path, "at", record().evaluation)
