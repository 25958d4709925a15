from __future__ import annotations

from pathlib import Path

import pytest
from harness.records import duration, read_json, write_json


def test_a_result_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "results" / "a-cpu.json"
    write_json(path, {"format": 1, "b": 2, "a": 1})
    assert read_json(path) == {"format": 1, "b": 2, "a": 1}
    before = path.read_text()
    assert before.index('"a"') < before.index('"b"') < before.index('"format"')
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"format": 1, "seconds": float("nan")})
    assert path.read_text() == before
    assert list(path.parent.iterdir()) == [path]


def test_another_format_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"format": 99})
    with pytest.raises(SystemExit, match="format 99, expected 1"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.5, "1.50 s"), (0.0123, "12.3 ms"), (4.7e-5, "47.0 us"), (3.21e-4, "321 us"), (2e-7, "0.20 us")],
)
def test_durations_have_three_digits(seconds: float, text: str) -> None:
    assert duration(seconds) == text
