"""Every script runs, records what it must, and refuses to time contestants that disagree."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from harness import peers
from harness.attacks import Workload
from harness.case import Contestant, Entrant, Settings
from harness.runner import QUICK, failures, run_case
from harness.scripts import load, scripts
from torch import Tensor

from fairtat.backends import OPS

ALL = (*OPS, "attack", "compare_attacks", "engines", "scaling", "training")  # those with cases for a CPU
ON_GPU = (*OPS, "attack", "engines", "training")

# A compilation takes seconds and two of the peers import for as long; the slow test has them all.
SKIPPED = ("torch.compile*", "*, compiled*", "ART", "torchattacks", "torchmetrics", "scikit-learn")
LEAN = [option for pattern in SKIPPED for option in ("--skip", pattern)]


def script(name: str) -> ModuleType:
    return load(name)


def script_conftest() -> ModuleType:
    path = Path(load("attack").__file__).parents[1] / "conftest.py"
    spec = importlib.util.spec_from_file_location("benchmarks_conftest", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def assert_spread(value: dict[str, float]) -> None:
    assert set(value) == {"median", "q1", "q3"}
    assert 0.0 < value["q1"] <= value["median"] <= value["q3"] < math.inf


def assert_result(result: dict, name: str) -> None:
    """What the README table and a reader in a year's time rely on."""
    assert (result["format"], result["benchmark"]) == (1, name)
    environment = result["environment"]
    for key in ("cpu", "cores", "threads", "python", "torch", "fairtat", "commit", "date"):
        assert environment[key], key
    assert result["cases"]
    for case in result["cases"]:
        assert case["rounds"] >= 2
        assert case["equality"]
        timed = {row["name"]: row for row in case["contestants"] if "missing" not in row}
        assert timed[case["baseline"]]["ratio"] == {"median": 1.0, "q1": 1.0, "q3": 1.0}
        assert "fairtat" in {row["role"] for row in timed.values()}
        assert len({row["role"] for row in timed.values()}) >= 2
        for row in timed.values():
            assert_spread(row["seconds"])
            assert_spread(row["ratio"])
            assert row["calls"] >= 1
            assert ("gb_per_s" in row) == ("bytes_moved" in case)


def run_benchmarks(benchmarks: Path, folder: Path, names: tuple[str, ...], *options: str) -> str:
    """The output of a run that succeeds."""
    files = [str(scripts()[name]) for name in names]
    command = [sys.executable, "-m", "pytest", "-q", *files, *options, "--results", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def results_of(folder: Path) -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


@pytest.mark.slow
def test_a_quick_run_is_complete_saved_and_compared(tmp_path: Path, benchmarks: Path) -> None:
    names = tuple(name for name in ALL if name != "training")
    run_benchmarks(benchmarks, tmp_path, names, "--quick", *LEAN, "--benchmark-autosave", "--threads", "1")
    results = results_of(tmp_path)
    assert set(results) == {f"{name}-cpu" for name in names}
    for stem, result in results.items():
        assert_result(result, stem.removesuffix("-cpu"))
        assert result["quick"] is True
        assert result["environment"]["threads"] == 1
    (saved,) = (tmp_path / ".benchmarks").rglob("*.json")
    entries = json.loads(saved.read_text())
    timed = sum("seconds" in row for r in results.values() for case in r["cases"] for row in case["contestants"])
    assert len(entries["benchmarks"]) == timed
    assert entries["machine_info"]["fairtat"]["commit"]
    assert all({"role", "ratio"} <= set(entry["extra_info"]) for entry in entries["benchmarks"])
    output = run_benchmarks(benchmarks, tmp_path, ("pgd_init",), "--quick", *LEAN, "--benchmark-compare")
    assert "Comparing against benchmarks from" in output
    assert "(0001_" in output  # the rows of the saved run stand beside the new ones


@pytest.mark.slow
def test_every_script_runs_with_every_contestant(tmp_path: Path, benchmarks: Path) -> None:
    run_benchmarks(benchmarks, tmp_path, ALL, "--quick")
    results = results_of(tmp_path)
    assert set(results) == {f"{name}-cpu" for name in ALL}
    for name in ALL:
        assert_result(results[f"{name}-cpu"], name)
        if name in ("pgd_init", "pgd_step", "logit_loss"):
            rows = [row for case in results[f"{name}-cpu"]["cases"] for row in case["contestants"]]
            assert "compile" in {row["role"] for row in rows}


@pytest.mark.slow
def test_the_cases_of_a_gpu_can_be_rehearsed_on_a_cpu(tmp_path: Path, benchmarks: Path) -> None:
    run_benchmarks(benchmarks, tmp_path, ON_GPU, "--rehearse", "--skip", "torch.compile*")
    results = results_of(tmp_path)
    assert set(results) == {f"{name}-cuda" for name in ON_GPU}
    for name in ON_GPU:
        result = results[f"{name}-cuda"]
        assert_result(result, name)
        assert (result["device"], result["quick"]) == ("cuda", True)
        for case in result["cases"]:
            assert "floor" in {row["role"] for row in case["contestants"]} or name in ("sample_targets", "class_stats")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--device", "cuda"), "--rehearse runs its cases on the CPU"),
        (("--threads", "0"), "--threads must be at least 1"),
    ],
)
def test_wrong_options_are_refused(options: tuple[str, str], message: str) -> None:
    class Config:
        stash: ClassVar = pytest.Stash()

        def getoption(self, name: str) -> object:
            values = {"threads": None, "device": "cpu", "rehearse": False, "quick": False}
            key = options[0].removeprefix("--").replace("-", "_")
            return {**values, key: options[1] if key == "device" else int(options[1])}.get(name)

    with pytest.raises(pytest.UsageError, match=message):
        script_conftest().pytest_configure(Config())


def last_bit(outcome: dict[str, Tensor]) -> dict[str, Tensor]:
    x_adv = outcome["x_adv"].clone()
    x_adv.view(-1)[7] = torch.nextafter(x_adv.view(-1)[7], torch.tensor(0.5))
    return {"x_adv": x_adv}


def smaller_ball(outcome: dict[str, Tensor]) -> dict[str, Tensor]:
    module = script("pgd_init")
    x = module.images(Settings(), 0, (4, 3, 32, 32))
    return {"x_adv": module.ops.pgd_init(x, 0.9 * module.EPS, seed=5)}


def mean_reduction(outcome: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**outcome, "dlogits": outcome["dlogits"] / len(outcome["loss"])}


def one_batch_again_and_again(outcome: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"targets": outcome["targets"][:1].expand_as(outcome["targets"])}


def rows_for_columns(outcome: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**outcome, "confusion": outcome["confusion"].T}


def quarter_steps(outcome: dict[str, Tensor]) -> dict[str, Tensor]:
    problem = Workload(Settings(), "digits_cnn", (128, 1, 8, 8)).problem()
    return {"x_adv": peers.textbook(dataclasses.replace(problem, step_size=problem.step_size / 4))()}


def half_the_loss(outcome: dict[str, Tensor]) -> dict[str, Tensor]:
    """As a training that has got further, or whose attack is weaker."""
    return {"robust_loss": outcome["robust_loss"] / 2}


@pytest.mark.parametrize(
    ("name", "contestant", "wrong"),
    [
        ("pgd_step", "eager, allocating", last_bit),
        ("pgd_init", "eager, allocating", smaller_ball),
        ("logit_loss", "softmax - onehot", mean_reduction),
        ("sample_targets", "inverse CDF", one_batch_again_and_again),
        ("class_stats", "bincount + index_add", rows_for_columns),
        ("attack", "textbook loop", quarter_steps),
        ("training", "published loop", half_the_loss),
    ],
)
def test_a_contestant_that_computes_something_else_is_not_timed_and_fails_the_case(
    name: str, contestant: str, wrong: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> None:
    benchmark = script(name).BENCHMARK
    (case, *_) = (case for case in benchmark.cases if case.quick)

    def impostor(entrant: Entrant) -> Entrant:
        assert entrant.outcome is not None
        return Entrant(lambda: pytest.fail("timed"), lambda: wrong(dict(entrant.outcome())))

    def changed(c: Contestant[Any]) -> Contestant[Any]:
        if c.name == contestant:
            return dataclasses.replace(c, make=lambda inputs: impostor(c.make(inputs)))
        return dataclasses.replace(c, make=lambda inputs: Entrant(lambda: None))  # soon timed

    taking_part = (contestant, benchmark.baseline["cpu"])
    contestants = tuple(changed(c) for c in benchmark.contestants if c.name in taking_part)
    assert {c.name for c in contestants} == set(taking_part)
    few = dataclasses.replace(benchmark, contestants=contestants)
    result, _ = run_case(few, case, Settings(quick=True), QUICK)
    (failure,) = failures(result)
    assert failure.startswith(f"{case.name}: {contestant}: does not compute the same thing")


@pytest.mark.slow
def test_a_case_with_a_failure_fails_and_its_file_says_so(tmp_path: Path, benchmarks: Path) -> None:
    """The whole way, under pytest: a rival that is wrong."""
    path = str(benchmarks / "ops" / "bench_pgd_init.py")
    options = [path, "-q", "--quick", "--skip", "torch.compile", "--results", str(tmp_path)]
    program = (
        f"import sys, pytest; sys.path.insert(0, {str(benchmarks)!r})\n"
        "from ops import bench_pgd_init as script\n"
        "script.in_place = lambda x: x.clone()\n"
        f"sys.exit(pytest.main({options!r}))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "eager, in place: does not compute the same thing: the noise is not uniform" in done.stdout
    (case,) = json.loads((tmp_path / "pgd_init-cpu.json").read_text())["cases"]
    rows = {row["name"]: row for row in case["contestants"]}
    assert "seconds" not in rows["eager, in place"]
    assert "seconds" in rows["fairtat"]


def test_every_op_has_its_script() -> None:
    assert set(scripts()) == {*ALL, *ON_GPU}
