"""Optional packages are imported where a failure, even a crash, is only told."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairtat.cli import packages


def distribution(site: Path, name: str, code: str) -> None:
    (site / f"{name}.py").write_text(code)
    (site / f"{name}-1.5.dist-info").mkdir()
    (site / f"{name}-1.5.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n")


def test_each_failure_says_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {
        "toy_good": ("print('hello')", None),
        "toy_raising": (
            "raise RuntimeError('operator torchvision::nms does not exist')",
            "RuntimeError: operator torchvision::nms does not exist",
        ),
        "toy_needing": ("import toy_absent_module", "ModuleNotFoundError: No module named 'toy_absent_module'"),
        "toy_leaving": ("import os; os._exit(3)", "its import ends with exit code 3"),
        "toy_crashing": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "its import ends with SIGSEGV"),
    }
    for name, (code, _) in broken.items():
        distribution(tmp_path, name, code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(packages, "OPTIONAL", {name: (name, "toys") for name in (*broken, "toy_absent")})
    found = packages.look()
    assert found.pop("toy_absent") == packages.Package("toys", None)
    assert found == {name: packages.Package("toys", "1.5", error) for name, (_, error) in broken.items()}


def test_an_import_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distribution(tmp_path, "toy_hanging", "import time; time.sleep(1000)")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(packages, "_PATIENCE", 0.5)
    monkeypatch.setattr(packages, "OPTIONAL", {"toy_hanging": ("toy_hanging", "toys")})
    error = "its import takes more than 0.5 seconds"
    assert packages.look() == {"toy_hanging": packages.Package("toys", "1.5", error)}
