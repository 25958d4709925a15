"""Every script runs, records what it must, and refuses to time contestants that disagree."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from harness import Case, Entrant, Settings
from torch import Tensor

from fairtat.backends import OPS

ALL = (*OPS, "attack", "engines", "evaluation", "training")  # those with cases for a CPU
LONG = ("evaluation", "training")  # these train models
ON_GPU = (*OPS, "attack_gpu", "training")

# A compilation takes seconds and two of the peers import for as long; the slow test has them all.
LEAN = ["--skip", "torch.compile*", "--skip", "*, compiled*", "--skip", "ART", "--skip", "torchattacks"]


def script(name: str) -> ModuleType:
    return importlib.import_module(f"bench_{name}")


def assert_spread(value: dict[str, float]) -> None:
    assert set(value) == {"median", "q1", "q3"}
    assert 0.0 < value["q1"] <= value["median"] <= value["q3"] < math.inf


def assert_result(result: dict, name: str) -> None:
    """What the README table and a reader in a year's time rely on."""
    assert (result["format"], result["benchmark"]) == (1, name)
    environment = result["environment"]
    for key in ("cpu", "cores", "threads", "python", "torch", "fairtat", "commit", "date", "copy_gb_per_s"):
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


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in ALL])
def test_a_quick_run_writes_a_complete_result(name: str, tmp_path: Path) -> None:
    module = script(name)
    assert module.main(module.BENCHMARK, ["--quick", "--output", str(tmp_path), *LEAN]) == 0
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}-cpu.json"]
    text = (tmp_path / f"{name}-cpu.json").read_text()
    result = json.loads(text)
    assert_result(result, name)
    assert result["quick"] is True
    assert text == json.dumps(result, indent=1, sort_keys=True) + "\n"


@pytest.mark.slow
def test_every_script_runs_with_every_contestant(tmp_path: Path, benchmarks: Path) -> None:
    command = [sys.executable, str(benchmarks / "run_all.py"), "--quick", "--threads", "1", "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{name}-cpu.json" for name in ALL)
    for name in ALL:
        result = json.loads((tmp_path / f"{name}-cpu.json").read_text())
        assert_result(result, name)
        assert result["environment"]["threads"] == 1
        rows = [row for case in result["cases"] for row in case["contestants"]]
        if name in ("pgd_init", "pgd_step", "logit_loss"):
            assert "compile" in {row["role"] for row in rows}


@pytest.mark.parametrize("name", [*OPS, pytest.param("attack_gpu", marks=pytest.mark.slow), "training"])
def test_the_cases_of_a_gpu_can_be_rehearsed_on_a_cpu(name: str, tmp_path: Path) -> None:
    module = script(name)
    arguments = ["--device", "cuda", "--rehearse", "--output", str(tmp_path), "--skip", "torch.compile*"]
    assert module.main(module.BENCHMARK, arguments) == 0
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}-cuda.json"]
    result = json.loads((tmp_path / f"{name}-cuda.json").read_text())
    assert_result(result, name)
    assert (result["device"], result["quick"]) == ("cuda", True)
    assert not any(case["targets"] for case in result["cases"])  # its times mean nothing
    for case in result["cases"]:
        assert "floor" in {row["role"] for row in case["contestants"]} or name in ("sample_targets", "class_stats")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_its_cases_are_not_measured(capsys: pytest.CaptureFixture[str]) -> None:
    module = script("class_stats")
    with pytest.raises(SystemExit) as left:
        module.main(module.BENCHMARK, ["--device", "cuda"])
    assert left.value.code == 2
    assert "--rehearse runs its cases on the CPU" in capsys.readouterr().err


def test_a_script_for_a_gpu_alone_has_nothing_to_do_on_a_cpu(capsys: pytest.CaptureFixture[str]) -> None:
    module = script("attack_gpu")
    assert module.main(module.BENCHMARK, ["--quick"]) == 0
    assert "no cases for a CPU" in capsys.readouterr().out


def last_bit(outcome: dict[str, Tensor]) -> dict[str, Tensor]:
    x_adv = outcome["x_adv"].clone()
    x_adv.view(-1)[7] = torch.nextafter(x_adv.view(-1)[7], torch.tensor(0.5))
    return {"x_adv": x_adv}


def smaller_ball(outcome: dict[str, Tensor]) -> dict[str, Tensor]:
    module = script("pgd_init")
    x = module.images((4, 3, 32, 32), False)
    return {"x_adv": module.ops.pgd_init(x, 0.9 * module.EPS, seed=5)}


def mean_reduction(outcome: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**outcome, "dlogits": outcome["dlogits"] / len(outcome["loss"])}


def one_batch_again_and_again(outcome: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"targets": outcome["targets"][:1].expand_as(outcome["targets"])}


def rows_for_columns(outcome: dict[str, Tensor]) -> dict[str, Tensor]:
    return {**outcome, "false_positive": outcome["false_negative"], "false_negative": outcome["false_positive"]}


def quarter_steps(outcome: dict[str, Tensor]) -> dict[str, Tensor]:
    module = script("attack")
    work = module.Workload("digits_cnn", (128, 1, 8, 8), rate=5e-3, train=False)
    problem = work.problem()
    return {"x_adv": module.peers.textbook(dataclasses.replace(problem, step_size=problem.step_size / 4))()}


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
def test_a_contestant_that_computes_something_else_stops_the_script(
    name: str,
    contestant: str,
    wrong: Callable[[dict[str, Tensor]], dict[str, Tensor]],
    tmp_path: Path,
) -> None:
    module = script(name)
    spec = next(spec for spec in module.BENCHMARK.cases if spec.quick)

    def build(settings: Settings) -> Case:
        case = spec.build(settings)
        impostors = tuple(
            dataclasses.replace(c, build=lambda made=c.build: impostor(made())) if c.name == contestant else c
            for c in case.contestants
        )
        assert impostors != case.contestants
        return dataclasses.replace(case, contestants=impostors)

    def impostor(entrant: Entrant) -> Entrant:
        assert entrant.outcome is not None
        return Entrant(lambda: pytest.fail("timed"), lambda: wrong(dict(entrant.outcome())))

    benchmark = dataclasses.replace(module.BENCHMARK, cases=(dataclasses.replace(spec, build=build),))
    with pytest.raises(SystemExit, match="does not compute the same thing") as stopped:
        module.main(benchmark, ["--quick", "--output", str(tmp_path), *LEAN])
    assert repr(contestant) in str(stopped.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ALL)
def test_help_teaches_and_list_names_the_cases(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = script(name)
    with pytest.raises(SystemExit) as left:
        module.main(module.BENCHMARK, ["--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert module.BENCHMARK.question in text
    assert f"python benchmarks/bench_{name}.py --quick" in text
    assert module.main(module.BENCHMARK, ["--list"]) == 0
    names = [spec.name for spec in module.BENCHMARK.cases if spec.device == "cpu"]
    assert capsys.readouterr().out.splitlines() == names


@pytest.mark.parametrize("arguments", [["--only", "no such case"], ["--threads", "0"], ["--min-rounds", "0"]])
def test_a_wrong_argument_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    module = script("class_stats")
    with pytest.raises(SystemExit) as left:
        module.main(module.BENCHMARK, arguments)
    assert left.value.code == 2
    assert arguments[1] in capsys.readouterr().err


def test_every_op_has_its_script(benchmarks: Path) -> None:
    assert {path.stem for path in benchmarks.glob("bench_*.py")} == {f"bench_{name}" for name in {*ALL, *ON_GPU}}
