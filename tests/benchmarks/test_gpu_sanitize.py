"""compute-sanitizer over every kernel: the program that it watches, and its phases."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import gpu_check
import pytest
from harness.phases import SKIP, Phase, run_phases

from fairtat import backends


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_the_driver_runs(backend: str, capsys: pytest.CaptureFixture[str]) -> None:
    if not backends.status()[backend].available:
        pytest.skip(backends.status()[backend].reason)
    assert gpu_check.drive(backend) == 0
    assert "the self-test and" in capsys.readouterr().out


@pytest.mark.parametrize("op", backends.OPS)
def test_a_kernel_that_writes_nonsense_does_not_pass(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], op: str
) -> None:
    right = backends._KERNELS["cpu"][op]
    if not backends.status()["cpu"].available:
        pytest.skip(backends.status()["cpu"].reason)

    def wrong(*arguments: Any) -> Any:
        answer = right(*arguments)
        written = answer if answer is not None else (arguments[0],)
        for tensor in written if isinstance(written, tuple) else (written,):
            tensor.fill_(1)
        return answer

    monkeypatch.setitem(backends._KERNELS["cpu"], op, wrong)
    assert gpu_check.drive("cpu") == 1
    assert f"wrong: {op}" in capsys.readouterr().out


def test_a_backend_that_is_not_here_is_skipped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(backends, "status", lambda: {"triton": backends.Status(False, "no Triton")})
    assert gpu_check.main(["--drive", "triton"]) == SKIP
    assert capsys.readouterr().out == "no Triton\n"


def sanitizers(tmp_path: Path) -> list[Phase]:
    phases = gpu_check.phases({"capability": "9.0"}, tmp_path, tmp_path / "check.json")
    return [phase for phase in phases if phase.name.startswith(("memcheck", "racecheck"))]


def outcomes(phases: list[Phase], tmp_path: Path) -> dict[str, str]:
    def ignored(said: object) -> None:
        """Nothing is looked at before the end."""

    done = run_phases(phases, deadline=60.0, folder=tmp_path, record=ignored, say=ignored)
    return {outcome["name"]: f"{outcome['outcome']}: {outcome.get('detail', '')}" for outcome in done}


def test_without_the_tool_there_is_nothing_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_check, "find_sanitizer", lambda: None)
    found = outcomes(sanitizers(tmp_path), tmp_path)
    assert set(found) == {f"{tool}-{backend}" for tool in ("memcheck", "racecheck") for backend in ("cuda", "triton")}
    assert set(found.values()) == {"skipped: compute-sanitizer is neither on PATH nor in CUDA_HOME"}


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    """A tool that finds something in racecheck only."""
    path = tmp_path / "bin" / "compute-sanitizer"
    path.parent.mkdir()
    path.write_text(
        f"#!{sys.executable} -S\nimport sys\nfound = 'racecheck' in sys.argv\n"
        "print('a hazard' if found else 'nothing', *sys.argv[-2:])\nsys.exit(99 if found else 0)\n"
    )
    path.chmod(0o755)
    return path


def test_the_tool_is_found_on_the_path_and_in_cuda_home(stub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(stub.parent))
    assert gpu_check.find_sanitizer() == str(stub)
    monkeypatch.setenv("PATH", os.defpath)
    monkeypatch.setenv("CUDA_HOME", str(stub.parents[1]))
    assert gpu_check.find_sanitizer() == str(stub)


def test_what_a_tool_finds_fails(stub: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_check, "find_sanitizer", lambda: str(stub))
    found = outcomes(sanitizers(tmp_path), tmp_path)
    assert found["memcheck-cuda"] == found["memcheck-triton"] == "passed: "
    assert found["racecheck-cuda"] == "failed: exit code 99: a hazard --drive cuda"
