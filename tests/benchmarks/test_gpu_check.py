"""The GPU check, with phases that need no GPU: its record, exit codes, products and plan."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gpu_check
import pytest
from harness.phases import Phase
from harness.scripts import load, scripts

FOUND = {
    "gpu": "NVIDIA H100 80GB HBM3", "capability": "9.0", "torch": "2.11", "triton": "3.6", "cuda": "13.0",
    "driver": "580", "python": "3.12", "executable": "/env/bin/python3",
}  # fmt: skip


def python(program: str) -> list[str]:
    return [sys.executable, "-S", "-c", program]


@pytest.fixture
def plan(monkeypatch: pytest.MonkeyPatch) -> list[Phase]:
    """What the check runs instead of its phases."""
    phases: list[Phase] = []
    monkeypatch.setattr(gpu_check, "find_gpu", lambda: dict(FOUND))
    monkeypatch.setattr(gpu_check, "phases", lambda *arguments: phases)
    return phases


def record_in(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("*.json")
    value: dict[str, Any] = json.loads(path.read_text())
    return value


def test_a_check_that_passes_names_gpu_versions_commit_and_date(plan: list[Phase], tmp_path: Path) -> None:
    plan += [Phase("one", python("pass"), 30.0), Phase("two", [], 30.0, skip="no tool")]
    assert gpu_check.main(["--out", str(tmp_path), "--commit", "abc"]) == 0
    (path,) = tmp_path.glob("*.json")
    assert path.name.startswith("nvidia-h100-80gb-hbm3-20")
    check = record_in(tmp_path)
    assert check["ok"] is True
    assert check["complete"] is True
    assert check["device"] == FOUND["gpu"]
    assert {**FOUND, "commit": "abc"}.items() <= check["environment"].items()
    assert path.stem.endswith(check["environment"]["date"])
    assert [(p["name"], p["outcome"]) for p in check["phases"]] == [("one", "passed"), ("two", "skipped")]


@pytest.mark.parametrize(
    ("phase", "outcome"),
    [
        (Phase("it", python("raise SystemExit(1)"), 30.0), "failed"),
        (Phase("it", python("import time; time.sleep(60)"), 0.2), "timed out"),
    ],
)
def test_one_phase_that_does_not_pass_fails_the_check(
    plan: list[Phase], phase: Phase, outcome: str, tmp_path: Path
) -> None:
    plan += [phase, Phase("next", python("pass"), 30.0)]
    assert gpu_check.main(["--out", str(tmp_path)]) == 1
    check = record_in(tmp_path)
    assert check["ok"] is False
    assert [p["outcome"] for p in check["phases"]] == [outcome, "passed"]


def test_a_deadline_that_is_over_fails_the_check(plan: list[Phase], tmp_path: Path) -> None:
    plan += [Phase("late", python("pass"), 30.0)]
    assert gpu_check.main(["--out", str(tmp_path), "--deadline", "0"]) == 1
    assert record_in(tmp_path)["phases"][0]["outcome"] == "no time left"


def test_a_check_that_is_cut_off_has_left_what_it_found(tmp_path: Path, benchmarks: Path) -> None:
    program = (
        "import gpu_check, sys, os, signal\n"
        "from harness.phases import Phase\n"
        f"gpu_check.find_gpu = lambda: {FOUND!r}\n"
        "kill = 'import os, signal; os.kill(os.getppid(), signal.SIGKILL)'\n"
        "gpu_check.phases = lambda *a: [Phase('done', [sys.executable, '-c', 'pass'], 30.0),\n"
        "                                    Phase('killer', [sys.executable, '-c', kill], 30.0)]\n"
        f"gpu_check.main(['--out', {str(tmp_path)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=benchmarks, capture_output=True, check=False)
    assert done.returncode < 0  # killed
    check = record_in(tmp_path)
    assert check["complete"] is False
    assert [(p["name"], p["outcome"]) for p in check["phases"]] == [("done", "passed")]


def test_only_runs_what_is_named(plan: list[Phase], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan += [Phase(name, python("pass"), 30.0) for name in ("build", "tests", "tests-triton")]
    assert gpu_check.main(["--out", str(tmp_path), "--only", "tests*"]) == 0
    assert [p["name"] for p in record_in(tmp_path)["phases"]] == ["tests", "tests-triton"]
    assert gpu_check.main(["--only", "nothing"]) == 2
    assert "--only must match one of build, tests, tests-triton" in capsys.readouterr().err


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="there may be a GPU")
def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main(["--out", str(tmp_path)]) == 2
    assert "sees no GPU" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        gpu_check.main(["--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert "Exit codes" in text
    assert "--only 'tests*'" in text


def test_the_plan_builds_for_the_gpu_without_a_network_and_fits_in_nine_minutes(tmp_path: Path) -> None:
    plan = {p.name: p for p in gpu_check.phases(FOUND, tmp_path, tmp_path / "check.json")}
    build = plan["build"]
    assert {"--no-build-isolation", "--no-deps"} <= set(build.command)
    assert build.environment["PIP_NO_INDEX"] == "1"
    assert build.environment["FAIRTAT_CUDA"] == build.environment["FAIRTAT_NATIVE"] == "1"
    assert build.environment["CMAKE_CUDA_ARCHITECTURES"] == "90"
    assert build.environment["PATH"].startswith(f"{Path(sys.executable).parent}:")  # where pip puts cmake and ninja
    assert next(iter(plan)) == "build"
    late = sum(phase.limit for phase in plan.values() if phase.always)
    assert gpu_check.DEADLINE + late <= 540
    for name, phase in plan.items():
        if "bench_" in " ".join(phase.command):
            assert not phase.untimed, name
    files = [Path(part) for phase in plan.values() for part in phase.command if part.endswith(".py")]
    assert all(file.is_file() for file in files)


def test_every_benchmark_with_cases_for_a_gpu_is_in_the_plan(tmp_path: Path) -> None:
    plan = {p.name for p in gpu_check.phases(FOUND, tmp_path, tmp_path / "check.json")}
    for script in scripts():
        benchmark = load(script).BENCHMARK
        assert (benchmark.name in plan) == any(case.device == "cuda" for case in benchmark.cases), script


def test_the_gpu_tests_are_found_by_their_mark(tmp_path: Path) -> None:
    files = gpu_check.gpu_tests()
    names = {file.relative_to(gpu_check.ROOT / "tests").as_posix() for file in files}
    assert {"cuda/test_kernels.py", "kernels/test_equality.py", "backends/test_gpu_kernels.py"} <= names
    assert "data/test_digits.py" not in names
    plan = {p.name: p for p in gpu_check.phases(FOUND, tmp_path, tmp_path / "check.json")}
    collected = {part for name in ("tests", "tests-triton") for part in plan[name].command}
    assert set(map(str, files)) <= collected


def test_the_tests_are_counted(tmp_path: Path) -> None:
    log = tmp_path / "tests.log"
    log.write_text("....F\nFAILED a::two\n=== 1 failed, 4 passed, 3 skipped, 9 deselected in 2.10s ===\n")
    assert gpu_check.read_tests(log) == {"passed": 4, "failed": 1, "skipped": 3}


@pytest.mark.parametrize("last", ["3 skipped in 0.10s", "1 failed, 3 skipped in 0.10s", "no tests ran in 0.01s", ""])
def test_tests_that_did_not_pass_prove_nothing(tmp_path: Path, last: str) -> None:
    log = tmp_path / "tests.log"
    log.write_text(f"sss\n{last}\n")
    with pytest.raises(ValueError, match="no test passed"):
        gpu_check.read_tests(log)
