from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gpu_check
import pytest

from fairtat.backends import auto


def case(**seconds: float) -> dict[str, Any]:
    rows = [{"name": f"fairtat, {name}", "seconds": {"median": value}} for name, value in seconds.items()]
    return {"name": "a case", "contestants": rows}


def check(**cases: list[dict[str, Any]]) -> dict[str, Any]:
    """A GPU check in which CUDA is the fastest, but for the ops that are given."""
    usual = [case(cuda=1.0, triton=2.0, reference=9.0)]
    phases = [{"name": op, "result": {"cases": cases.get(op, usual)}} for op in auto.OPS]
    return {
        "format": 1, "kind": "gpu-check", "device": "Some GPU", "phases": phases,
        "environment": {"date": "2026-01-02", "commit": "abc"},
    }  # fmt: skip


def test_the_fastest_goes_first_by_the_geometric_mean_of_its_cases() -> None:
    # Triton takes 1/4 and 2 of CUDA's time: 0.71 in the mean, though a sum of times would say the opposite.
    cases = [case(cuda=4.0, triton=1.0, reference=8.0), case(cuda=100.0, triton=200.0, reference=800.0)]
    table = gpu_check.table_from(check(pgd_step=cases))
    assert table["order"]["pgd_step"] == ["triton", "cuda", "reference"]
    assert table["order"]["pgd_init"] == ["cuda", "triton", "reference"]
    assert table["measured"] == {"device": "Some GPU", "date": "2026-01-02", "commit": "abc"}


def test_the_reference_goes_first_where_it_is_fastest() -> None:
    table = gpu_check.table_from(check(class_stats=[case(cuda=3.0, triton=2.0, reference=1.0)]))
    assert table["order"]["class_stats"] == ["reference", "triton", "cuda"]


@pytest.mark.parametrize(
    ("cases", "order"),
    [
        ([case(triton=1.0, reference=2.0)], ["triton", "reference", "cuda"]),
        ([case(cuda=0.1, triton=1.0, reference=2.0), case(triton=1.0, reference=2.0)], ["triton", "reference", "cuda"]),
    ],
)
def test_a_backend_that_was_not_there_or_failed_goes_last(cases: list[dict[str, Any]], order: list[str]) -> None:
    assert gpu_check.table_from(check(pgd_step=cases))["order"]["pgd_step"] == order


def test_no_order_is_made_of_nothing() -> None:
    with pytest.raises(SystemExit, match="no kernel of logit_loss was measured"):
        gpu_check.table_from(check(logit_loss=[case(reference=1.0)]))
    with pytest.raises(SystemExit, match="no kernel of logit_loss was measured"):
        gpu_check.table_from(check(logit_loss=[{"name": "a case", "failed": "out of memory"}]))


def test_another_file_makes_no_table(tmp_path: Path) -> None:
    results = tmp_path / "check.json"
    results.write_text(json.dumps(check() | {"kind": "benchmark"}))
    with pytest.raises(SystemExit, match="not the result of a GPU check"):
        gpu_check.main(["--apply", str(results)])
