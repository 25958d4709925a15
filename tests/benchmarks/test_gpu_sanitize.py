from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import gpu_check
import pytest
from gpu_check import SKIP

from fairtat import backends


def test_the_driver_reaches_every_op_and_every_option_that_has_a_path_of_its_own() -> None:
    names = [name for name, _ in gpu_check.calls("reference")]
    assert {name.split()[0] for name in names} == set(backends.OPS)
    for wanted in ("uniform l", "normal l", "zero l", "l2", "bfloat16", "ce C=1500", "dlr C=4", "kl C=33", "C=300"):
        assert any(wanted in name for name in names), wanted
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_the_driver_runs(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    if not backends.status()[backend].available:
        pytest.skip(backends.status()[backend].reason)
    assert gpu_check.drive(backend) == 0
    assert "calls" in capsys.readouterr().out


def test_a_kernel_that_writes_nothing_does_not_pass(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lazy(out: Any, *arguments: Any) -> None:
        out.fill_(float("nan"))

    monkeypatch.setitem(backends._KERNELS["reference"], "pgd_init", lazy)
    assert gpu_check.drive("reference") == 1
    assert "not finite: pgd_init uniform linf" in capsys.readouterr().out


def test_without_the_tool_there_is_nothing_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_check, "find_sanitizer", lambda: None)
    assert gpu_check.sanitize() == SKIP
    assert capsys.readouterr().out.splitlines()[-1] == "compute-sanitizer is neither on PATH nor in CUDA_HOME"


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tool that finds something in racecheck only, for backends that are said to be here."""
    path = tmp_path / "bin" / "compute-sanitizer"
    path.parent.mkdir()
    path.write_text(
        f"#!{sys.executable}\nimport sys\nfound = 'racecheck' in sys.argv\n"
        "print('a hazard' if found else 'nothing', *sys.argv[-2:])\nsys.exit(99 if found else 0)\n"
    )
    path.chmod(0o755)
    there = backends.Status(True, "there")
    monkeypatch.setattr(backends, "status", lambda: {"cuda": there, "triton": backends.Status(False, "no Triton")})
    return path


def test_the_tool_is_found_on_the_path_and_in_cuda_home(stub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(stub.parent))
    assert gpu_check.find_sanitizer() == str(stub)
    monkeypatch.setenv("PATH", os.defpath)
    monkeypatch.setenv("CUDA_HOME", str(stub.parents[1]))
    assert gpu_check.find_sanitizer() == str(stub)


def test_what_a_tool_finds_fails_and_is_recorded(stub: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_check, "find_sanitizer", lambda: str(stub))
    output = tmp_path / "found.json"
    assert gpu_check.sanitize(output) == 1
    runs = {(run["backend"], run["tool"]): run for run in json.loads(output.read_text())["runs"]}
    assert runs["cuda", "memcheck"]["outcome"] == "passed"
    assert runs["cuda", "racecheck"]["outcome"] == "failed"
    assert runs["cuda", "racecheck"]["detail"] == "a hazard --drive cuda"
    assert runs["triton", "memcheck"] == {
        "backend": "triton", "tool": "memcheck", "outcome": "skipped", "detail": "no Triton",
    }  # fmt: skip
