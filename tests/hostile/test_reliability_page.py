"""docs/reliability.md names the faults that tests inject, no more and no fewer."""

from __future__ import annotations

import faults


def test_the_page_has_a_row_for_each_fault_that_a_test_injects() -> None:
    stated = faults.stated_faults(faults.PAGE.read_text(encoding="utf-8"))
    assert stated == faults.tested_faults(faults.ROOT / "tests")
    assert len(stated) >= 15
