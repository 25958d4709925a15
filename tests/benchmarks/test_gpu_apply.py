from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gpu_check
import pytest
import readme_table

from fairtat.backends import auto


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A page and a table to write to."""
    page, table = tmp_path / "performance.md", tmp_path / "auto.json"
    page.write_text("Before.\n<!-- gpu: begin -->\n<!-- gpu: end -->\nAfter.\n")
    monkeypatch.setattr(gpu_check, "PAGE", page)
    monkeypatch.setattr(auto, "PATH", table)
    return page, table


def check(**kernels: float) -> dict[str, Any]:
    rows = [
        {"name": f"fairtat, {name}", "role": "fairtat", "seconds": {"median": seconds}}
        for name, seconds in kernels.items()
    ]
    environment = dict.fromkeys(("driver", "cuda", "torch", "triton", "python", "commit"), "x")
    return {
        "format": 1, "kind": "gpu-check", "device": "Some GPU",
        "environment": environment | {"date": "2026-01-02"},
        "phases": [
            {"name": op, "result": {"cases": [{"name": readme_table.gpu_cases(op)[0], "contestants": rows}]}}
            for op in auto.OPS
        ],
    }  # fmt: skip


def test_one_command_fills_the_page_and_the_order(places: tuple[Path, Path], tmp_path: Path) -> None:
    page, table = places
    path = tmp_path / "check.json"
    path.write_text(json.dumps(check(cuda=2e-3, triton=1e-3, reference=9e-3)))
    assert gpu_check.main(["--apply", str(path)]) == 0
    text = page.read_text()
    assert text.startswith("Before.\n")
    assert text.endswith("After.\n")
    assert "| 2.00 ms | 0.5x |" in text
    order, measured = auto.parse(json.loads(table.read_text()))
    assert order["pgd_init"] == ("triton", "cuda", "reference")
    assert measured == auto.Measured("Some GPU", "2026-01-02", "x")


def test_a_check_without_kernels_still_fills_the_page_and_leaves_the_order(
    places: tuple[Path, Path], tmp_path: Path
) -> None:
    page, table = places
    path = tmp_path / "check.json"
    path.write_text(json.dumps(check(reference=9e-3)))
    with pytest.raises(SystemExit, match="there is no order to write"):
        gpu_check.main(["--apply", str(path)])
    assert "Some GPU" in page.read_text()
    assert not table.exists()
