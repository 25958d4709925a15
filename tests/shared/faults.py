"""The table of faults in docs/reliability.md, written by the tests that inject them.

A test marked ``@pytest.mark.fault("what goes wrong", "what happens")`` injects the first and asserts the second. With
FAIRTAT_WRITE_RELIABILITY=1 (``make reliability``) a session in which all of them pass writes the page anew.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
WRITE = os.environ.get("FAIRTAT_WRITE_RELIABILITY") == "1"

_MARK = re.compile(r'pytest\.mark\.fault\(\s*"([^"]+)"')
_HEAD = """# Reliability

What goes wrong, and what happens then. Tests inject each of these faults, in processes of their own where it matters,
and write this table (`make reliability`). "Bit-for-bit" means that after `--resume` the metrics, weights, averages,
momenta and statistics equal those of a run that nothing disturbed.

| what goes wrong | what happens | test |
|---|---|---|
"""

_passed: dict[str, tuple[str, str]] = {}


def note(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    """A row for a test of a fault that has passed."""
    if call.when == "call" and call.excinfo is None:
        for mark in item.iter_markers("fault"):
            fault, outcome = mark.args
            _passed[fault] = (outcome, f"`{item.path.relative_to(ROOT)}`")


def tested_faults(folder: Path) -> list[str]:
    """Every fault that a test in ``folder`` is marked with, in the order of files and lines."""
    found = (name for file in sorted(folder.rglob("test_*.py")) for name in _MARK.findall(file.read_text()))
    return list(dict.fromkeys(found))


def page(rows: Mapping[str, tuple[str, str]]) -> str:
    return _HEAD + "".join(f"| {fault} | {outcome} | {test} |\n" for fault, (outcome, test) in rows.items())


def stated_faults(text: str) -> list[str]:
    """The faults of a page's table."""
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    return [row.split(" | ")[0].removeprefix("| ") for row in rows]


def finish(exit_status: int) -> None:
    """Write the page, at the end of a session that was asked to and in which all tests passed."""
    if not WRITE or exit_status != 0:
        return
    wanted = tested_faults(ROOT / "tests")
    missing = [fault for fault in wanted if fault not in _passed]
    if missing:
        raise pytest.UsageError(f"{PAGE} is not written: no test ran for {missing}")
    PAGE.write_text(page({fault: _passed[fault] for fault in wanted}), encoding="utf-8")
